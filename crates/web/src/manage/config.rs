//! Variables, secrets and domains.

use api::{DomainAdd, DomainView, Env, EnvChange, EnvChanged, SecretSet, Secrets};
use base::limits::{ENV_VALUE_BYTES_MAX, ENV_VARS_MAX};
use base::{Domain, Name, chain};
use state::{Certificate, Command};

use super::{Answer, Call, Refusal, detached, done, json};
use crate::router::{domain_purpose, secret_purpose, tenant_key};
use crate::tls;

pub(crate) fn env_read(call: &Call) -> Answer {
    let app = call.app()?;
    let stage = call.stage(&app)?;
    let running = app.running(stage.name.as_str());
    let mut manifest = running.map(|release| release.manifest.for_stage(&stage.name).env).unwrap_or_default();
    manifest.retain(|name, _| !stage.env.contains_key(name));
    json(&Env { set: stage.env.clone(), manifest })
}

pub(crate) async fn env_change(call: Call) -> Answer {
    let EnvChange { changes } = call.json()?;
    // The record keeps what is proposed, refused or not.
    if changes.len() > 2 * ENV_VARS_MAX {
        let said = format!("{} variables at once: a stage has {ENV_VARS_MAX} at the most", changes.len());
        return Err(Refusal::bad("too_many", said).help("change those that the stage is to have, and no others"));
    }
    let (app, stage) = (call.param("app")?, call.param("stage")?);
    let applied = detached(call, async move |call| {
        call.propose(Command::EnvChange { tenant: call.tenant(), app, stage, changes }).await
    })
    .await?;
    json(&EnvChanged { release: applied.release })
}

pub(crate) fn secret_list(call: &Call) -> Answer {
    let app = call.app()?;
    let stage = call.stage(&app)?;
    let bound =
        app.running(stage.name.as_str()).map(|release| release.manifest.bindings.secrets.clone()).unwrap_or_default();
    json(&Secrets {
        set: stage.secrets.keys().cloned().collect(),
        unbound: stage.secrets.keys().filter(|name| !bound.contains(*name)).cloned().collect(),
        missing: bound.into_iter().filter(|name| !stage.secrets.contains_key(name)).collect(),
    })
}

pub(crate) async fn secret_set(call: Call) -> Answer {
    let SecretSet { value } = call.json()?;
    if value.len() > ENV_VALUE_BYTES_MAX {
        return Err(Refusal::bad("too_large", format!("a secret has at the most {ENV_VALUE_BYTES_MAX} bytes")));
    }
    let (app, stage, name): (Name, Name, String) = (call.param("app")?, call.param("stage")?, call.param("secret")?);
    let key = tenant_key(&call.cloud.key, &*call.tenant_held()?).map_err(|error| Refusal::failed(error.into()))?;
    let value = key.seal(&secret_purpose(app.as_str(), stage.as_str(), &name), value.as_bytes());
    detached(call, async move |call| {
        call.propose(Command::SecretSet { tenant: call.tenant(), app, stage, name, value }).await
    })
    .await?;
    done()
}

pub(crate) async fn secret_delete(call: Call) -> Answer {
    let (app, stage, name) = (call.param("app")?, call.param("stage")?, call.param("secret")?);
    detached(call, async move |call| {
        call.propose(Command::SecretDelete { tenant: call.tenant(), app, stage, name }).await
    })
    .await?;
    done()
}

pub(crate) fn domain_list(call: &Call) -> Answer {
    let (app, record) = (call.app()?, call.cloud.record());
    let claims = record.domains().filter(|(_, claim)| claim.tenant == call.tenant() && claim.app == app.name);
    let view = claims.map(|(domain, claim)| DomainView {
        domain: domain.clone(),
        at: claim.at,
        certificate: claim.certificate.is_some(),
    });
    json(&view.collect::<Vec<_>>())
}

pub(crate) async fn domain_add(call: Call) -> Answer {
    let asked: DomainAdd = call.json()?;
    let (app, domain): (Name, Domain) = (call.param("app")?, call.param("domain")?);
    if domain.is_within(&call.cloud.settings.domain) {
        let own = &call.cloud.settings.domain;
        return Err(Refusal::bad("own_domain", format!("{domain} lies within the cloud's own domain {own}"))
            .help("every app has its name there already; add a domain of your own"));
    }
    let certificate = match (asked.chain, asked.key) {
        (None, None) => None,
        (Some(chain_pem), Some(key_pem)) => {
            tls::certified(chain_pem.as_bytes(), key_pem.as_bytes()).map_err(|error| {
                Refusal::bad("wrong_certificate", chain(&error))
                    .help("send PEM: the chain leaf first, and the leaf's key")
            })?;
            let key =
                tenant_key(&call.cloud.key, &*call.tenant_held()?).map_err(|error| Refusal::failed(error.into()))?;
            Some(Certificate { chain: chain_pem, key: key.seal(&domain_purpose(domain.as_str()), key_pem.as_bytes()) })
        }
        _ => return Err(Refusal::bad("wrong_certificate", "a certificate needs both its chain and its key")),
    };
    detached(call, async move |call| {
        call.propose(Command::DomainAdd { tenant: call.tenant(), app, domain, certificate }).await
    })
    .await?;
    done()
}

pub(crate) async fn domain_remove(call: Call) -> Answer {
    let (app, domain) = (call.param("app")?, call.param("domain")?);
    detached(call, async move |call| call.propose(Command::DomainRemove { tenant: call.tenant(), app, domain }).await)
        .await?;
    done()
}
