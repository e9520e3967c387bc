//! The box, tenants and tokens.

use std::time::Duration;

use api::{Health, Status, TenantChange, TenantCreate, TenantView, TokenCreate, TokenCreated, TokenView, Whoami};
use base::TokenId;
use base::limits::LABEL_TEXT_BYTES_MAX;
use state::{Command, Grant, Tenant};

use super::{Answer, Call, Refusal, detached, done, json, now};
use crate::tier::{MintError, Wish};

pub(crate) fn health_read(call: &Call) -> Answer {
    let draining = call.cloud.is_draining();
    json(&Health { serving: !draining, version: env!("CARGO_PKG_VERSION").to_owned(), draining })
}

pub(crate) fn status_read(call: &Call) -> Answer {
    let record = call.cloud.record();
    let caller = call.caller();
    let seen = |tenant: &&std::sync::Arc<Tenant>| caller.is_operator() || caller.token().tenant == Some(tenant.id);
    let draining = call.cloud.is_draining();
    json(&Status {
        serving: !draining,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        draining,
        since: call.cloud.since,
        record_index: record.index(),
        tenants: record.tenants().filter(seen).count() as u64,
        apps: record.tenants().filter(seen).map(|tenant| tenant.apps.len() as u64).sum(),
        concerns: if caller.is_operator() { call.cloud.concerns() } else { Vec::new() },
    })
}

pub(crate) fn whoami_read(call: &Call) -> Answer {
    let token = call.caller().token();
    let record = call.cloud.record();
    let tenant = token.tenant.and_then(|tenant| record.tenant(tenant)).map(|tenant| tenant.name.clone());
    json(&Whoami { token: token.id, label: token.label.clone(), grant: token.grant, tenant, expires: token.expires })
}

fn view(tenant: &Tenant) -> TenantView {
    let (apps, limit) = (tenant.apps.len() as u64, tenant.ceiling.clone());
    TenantView { tenant: tenant.name.clone(), created: tenant.created, apps, limit }
}

pub(crate) fn tenant_list(call: &Call) -> Answer {
    json(&call.cloud.record().tenants().map(|tenant| view(tenant)).collect::<Vec<_>>())
}

pub(crate) async fn tenant_create(call: Call) -> Answer {
    let asked: TenantCreate = call.json()?;
    let view = detached(call, async move |call| {
        let command = call.cloud.tenant_create(asked.tenant).map_err(|error| Refusal::failed(error.into()))?;
        let made = call.propose(command).await?;
        let tenant = made.tenant.and_then(|tenant| call.cloud.record().tenant(tenant).map(|tenant| view(tenant)));
        tenant.ok_or_else(|| Refusal::no_such("tenant", "it was deleted at once"))
    })
    .await?;
    json(&view)
}

pub(crate) async fn tenant_change(call: Call) -> Answer {
    let TenantChange { limit } = call.json()?;
    let view = detached(call, async move |call| {
        call.propose(Command::TenantLimit { tenant: call.tenant(), ceiling: limit }).await?;
        Ok(view(&*call.tenant_held()?))
    })
    .await?;
    json(&view)
}

pub(crate) async fn tenant_delete(call: Call) -> Answer {
    detached(call, async |call| call.propose(Command::TenantDelete { tenant: call.tenant() }).await).await?;
    done()
}

/// Of the tenant in the path, or the operators'.
pub(crate) fn token_list(call: &Call) -> Answer {
    let record = call.cloud.record();
    let tokens = record.tokens().filter(|token| token.tenant == call.tenant).map(|token| TokenView {
        token: token.id,
        label: token.label.clone(),
        grant: token.grant,
        created: token.created,
        expires: token.expires,
    });
    json(&tokens.collect::<Vec<_>>())
}

pub(crate) async fn token_create(call: Call) -> Answer {
    let asked: TokenCreate = call.json()?;
    if asked.label.trim().is_empty() || asked.label.len() > LABEL_TEXT_BYTES_MAX {
        return Err(Refusal::bad("wrong_label", format!("a label has 1 to {LABEL_TEXT_BYTES_MAX} bytes"))
            .help("write what the token is for, such as `ci of the shop`"));
    }
    if call.tenant.is_some() && asked.grant == Grant::Operate {
        return Err(Refusal::bad("wrong_grant", "a tenant's token can't operate the cloud")
            .help("an operator makes those: firm token create --operators"));
    }
    if asked.expires_in == Some(0) {
        return Err(Refusal::bad("wrong_life", "a token lives 1 second or longer")
            .help("leave expires_in out for one that never expires"));
    }
    let wish = Wish {
        tenant: call.tenant,
        grant: asked.grant,
        label: asked.label,
        expires: asked.expires_in.map(|seconds| now().plus(Duration::from_secs(seconds))),
    };
    let minted = detached(call, async move |call| {
        let bearer = call.bearer.as_deref().unwrap_or_default();
        call.cloud.mint(call.caller().actor(), bearer, wish).await.map_err(unminted)
    })
    .await?;
    json(&TokenCreated { token: minted.id, secret: minted.secret })
}

fn unminted(error: MintError) -> Refusal {
    match error {
        MintError::Propose(error) => Refusal::proposed(error),
        MintError::Random(error) => Refusal::failed(error.into()),
        error @ (MintError::NoAuth(_) | MintError::Wish(_)) => {
            Refusal::new(http::StatusCode::SERVICE_UNAVAILABLE, "no_auth_box", error.to_string())
                .help("tokens are made by auth boxes alone: see how they are with `firm status`")
        }
    }
}

pub(crate) async fn token_revoke(call: Call) -> Answer {
    let id: TokenId = call.param("token")?;
    detached(call, async move |call| call.propose(Command::TokenRevoke { tenant: call.tenant, id }).await).await?;
    done()
}
