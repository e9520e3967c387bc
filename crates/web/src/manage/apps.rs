//! Apps, their releases and stages.

use std::sync::Arc;
use std::time::Duration;

use api::{AppView, Deployed, Promote, ReleaseView, Rollback, Share, Shared, StageView};
use auth::Pass;
use base::limits::{SHARE_TIME_DEFAULT, SHARE_TIME_MAX};
use base::{Name, ReleaseNo};
use state::{App, Command, Record, Tenant};

use super::{Answer, Call, Refusal, detached, done, json, now};
use crate::gate::PASS;
use crate::router::tenant_key;

pub(super) fn live() -> Name {
    "live".parse().expect("it is a name")
}

fn view(call: &Call, record: &Record, tenant: &Tenant, app: &App) -> AppView {
    let claims = record.domains().filter(|(_, claim)| claim.tenant == tenant.id && claim.app == app.name);
    AppView {
        app: app.name.clone(),
        created: app.created,
        url: call.cloud.url(&tenant.name, &app.name, &live()),
        running: app.stage("live").and_then(|stage| stage.running),
        stages: app.stages.keys().cloned().collect(),
        domains: claims.map(|(domain, _)| domain.clone()).collect(),
    }
}

pub(crate) fn app_list(call: &Call) -> Answer {
    let (record, tenant) = (call.cloud.record(), call.tenant_held()?);
    json(&tenant.apps.values().map(|app| view(call, &record, &tenant, app)).collect::<Vec<_>>())
}

pub(crate) fn app_read(call: &Call) -> Answer {
    json(&view(call, &call.cloud.record(), &*call.tenant_held()?, &*call.app()?))
}

pub(crate) async fn app_delete(call: Call) -> Answer {
    let app: Name = call.param("app")?;
    detached(call, async move |call| call.propose(Command::AppDelete { tenant: call.tenant(), app }).await).await?;
    done()
}

pub(crate) fn release_list(call: &Call) -> Answer {
    let app = call.app()?;
    let view = |release: &Arc<state::Release>| ReleaseView {
        release: release.no,
        stage: release.stage.clone(),
        running: app.stage(release.stage.as_str()).is_some_and(|stage| stage.running == Some(release.no)),
        at: release.at,
        by: release.by.to_string(),
        origin: release.origin.clone(),
        content: release.content,
        source: release.source.clone(),
        manifest: release.effective(),
    };
    json(&app.releases.values().rev().map(view).collect::<Vec<_>>())
}

pub(crate) fn stage_list(call: &Call) -> Answer {
    let (tenant, app) = (call.tenant_held()?, call.app()?);
    let view = |stage: &state::Stage| StageView {
        stage: stage.name.clone(),
        url: call.cloud.url(&tenant.name, &app.name, &stage.name),
        public: stage.is_live(),
        running: stage.running,
        history: stage.history.iter().cloned().collect(),
    };
    json(&app.stages.values().map(view).collect::<Vec<_>>())
}

pub(crate) async fn stage_delete(call: Call) -> Answer {
    let (app, stage) = (call.param("app")?, call.param("stage")?);
    detached(call, async move |call| call.propose(Command::StageDelete { tenant: call.tenant(), app, stage }).await)
        .await?;
    done()
}

pub(crate) async fn stage_promote(call: Call) -> Answer {
    let asked: Promote = call.json()?;
    let (app, from): (Name, Name) = (call.param("app")?, call.param("stage")?);
    let to = asked.to.unwrap_or_else(live);
    let deployed = detached(call, async move |call| {
        let command = Command::StagePromote {
            tenant: call.tenant(),
            app: app.clone(),
            from,
            to: to.clone(),
            release: asked.release,
        };
        let release = call.propose(command).await?.release;
        deployed(call, &app, &to, release)
    })
    .await?;
    json(&deployed)
}

pub(crate) async fn stage_rollback(call: Call) -> Answer {
    let asked: Rollback = call.json()?;
    let (app, stage): (Name, Name) = (call.param("app")?, call.param("stage")?);
    let deployed = detached(call, async move |call| {
        let command = Command::StageRollback {
            tenant: call.tenant(),
            app: app.clone(),
            stage: stage.clone(),
            to: asked.to,
            running: asked.running,
        };
        let release = call.propose(command).await?.release;
        deployed(call, &app, &stage, release)
    })
    .await?;
    json(&deployed)
}

/// What a change of a stage ended in.
pub(super) fn deployed(call: &Call, app: &Name, stage: &Name, release: Option<ReleaseNo>) -> Result<Deployed, Refusal> {
    let tenant = call.tenant_held()?;
    let release = release.ok_or_else(|| Refusal::failed("the record made no release".into()))?;
    let place = tenant.apps.get(app).and_then(|held| Some((held.stage(stage.as_str())?, held.releases.get(&release)?)));
    let warnings = place.map(|(stage, release)| unset_secrets(stage, release)).unwrap_or_default();
    Ok(Deployed {
        url: call.cloud.url(&tenant.name, app, stage),
        tenant: tenant.name.clone(),
        app: app.clone(),
        stage: stage.clone(),
        release,
        public: stage.as_str() == "live",
        unchanged: false,
        warnings,
    })
}

fn unset_secrets(stage: &state::Stage, release: &state::Release) -> Vec<String> {
    let bound = release.manifest.bindings.secrets.iter();
    let unset = bound.filter(|secret| !stage.secrets.contains_key(*secret));
    let name = &stage.name;
    unset
        .map(|secret| format!("secret {secret} isn't set on stage {name}: firm secret set {secret} --stage {name}"))
        .collect()
}

pub(crate) fn stage_share(call: &Call) -> Answer {
    let asked: Share = call.json()?;
    let (tenant, app) = (call.tenant_held()?, call.app()?);
    let stage = call.stage(&app)?;
    if stage.is_live() {
        return Err(Refusal::bad("public", "the live stage is public: its address is link enough"));
    }
    let life = asked.expires_in.map_or(SHARE_TIME_DEFAULT, Duration::from_secs);
    if life.is_zero() || life > SHARE_TIME_MAX {
        let most = SHARE_TIME_MAX.as_secs();
        return Err(Refusal::bad("wrong_life", format!("a share link lives 1 to {most} seconds")));
    }
    let key = tenant_key(&call.cloud.key, &tenant).map_err(|error| Refusal::failed(error.into()))?;
    let expires = now().plus(life);
    let pass = Pass { stage: stage.database, expires }.sign(&key);
    let url = format!("{}?{PASS}={pass}", call.cloud.url(&tenant.name, &app.name, &stage.name));
    json(&Shared { url, expires })
}
