//! Which cloud a command is about, as whom, and every call to it, each with a deadline.
//!
//! In this order: `--context` or `FIRM_CONTEXT`; `FIRM_ADDRESS` with `FIRM_TOKEN` and `FIRM_AUTHORITY`, as CI
//! sets them; the current context. `FIRM_TOKEN` alone takes the place of the context's token.

use std::env;
use std::fs;
use std::time::Duration;

use api::{Client, ClientError, Context, Whoami};
use base::Name;
use base::limits::{CLIENT_ANSWER_TIME_MAX, CLIENT_CONNECT_TIME_MAX};
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::contexts::{self, ContextsError};
use super::exit::Exit;
use super::failure::{Failure, Outcome};

/// What every command may be told.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Answer with one JSON object, or one array where there is a list
    #[arg(long, global = true)]
    pub json: bool,
    /// The tenant that the command is about [default: the context's]
    #[arg(long, global = true, value_name = "NAME", env = "FIRM_TENANT", hide_env_values = true)]
    pub tenant: Option<Name>,
    /// The cloud that the command is about [default: the current context]
    #[arg(long, global = true, value_name = "NAME", env = "FIRM_CONTEXT", hide_env_values = true)]
    pub context: Option<Name>,
}

impl From<ContextsError> for Failure {
    fn from(error: ContextsError) -> Self {
        Self::of(Exit::Refused, &error)
    }
}

/// The cloud that was chosen, before anybody has spoken to it.
#[derive(Debug)]
pub struct Chosen {
    /// None where the environment says which.
    pub name: Option<Name>,
    /// Its tenant is [`Chosen::tenant`], and a placeholder where that is none.
    pub context: Context,
    /// The one to ask about; none where only the token tells.
    pub tenant: Option<Name>,
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Decides which cloud, without speaking to it.
pub fn choose(global: &Global) -> Outcome<Chosen> {
    if let (None, Some(address)) = (&global.context, variable("FIRM_ADDRESS")) {
        return from_environment(global, address);
    }
    let known = contexts::load(&contexts::folder()?)?;
    let Some(name) = global.context.clone().or(known.current) else {
        return Err(Failure::new(Exit::Unreachable, "no cloud was chosen: there is no context yet")
            .help("start one on this machine with `firm up`, or add one: firm context add --help"));
    };
    let Some(mut context) = known.contexts.get(&name).cloned() else {
        let names: Vec<_> = known.contexts.keys().map(ToString::to_string).collect();
        let help = if names.is_empty() {
            "there is none yet: firm up".to_owned()
        } else {
            format!("choose one of: {}", names.join(", "))
        };
        return Err(Failure::new(Exit::Usage, format!("there is no context `{name}`")).help(help));
    };
    if let Some(token) = variable("FIRM_TOKEN") {
        context.token = token;
    }
    if let Some(tenant) = &global.tenant {
        context.tenant = tenant.clone();
    }
    let tenant = Some(context.tenant.clone());
    Ok(Chosen { name: Some(name), context, tenant })
}

fn from_environment(global: &Global, address: String) -> Outcome<Chosen> {
    let wanted = |name: &str| {
        variable(name).ok_or_else(|| {
            Failure::usage(format!("FIRM_ADDRESS is set and {name} is not")).help(
                "set FIRM_ADDRESS (host:port), FIRM_TOKEN and FIRM_AUTHORITY (a PEM file) together, or none of them",
            )
        })
    };
    let token = wanted("FIRM_TOKEN")?;
    let file = wanted("FIRM_AUTHORITY")?;
    let authority = fs::read_to_string(&file)
        .map_err(|error| Failure::new(Exit::Refused, format!("FIRM_AUTHORITY: `{file}` can't be read: {error}")))?;
    let host = variable("FIRM_HOST").unwrap_or_else(|| host_of(&address).to_owned());
    let tenant = global.tenant.clone();
    let placeholder = || "default".parse().expect("it is a name");
    let context = Context {
        address,
        also: Vec::new(),
        host,
        authority,
        token,
        tenant: tenant.clone().unwrap_or_else(placeholder),
    };
    Ok(Chosen { name: None, context, tenant })
}

/// `host` of `host:port`.
pub fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// A connection to the chosen cloud.
#[derive(Clone)]
pub struct Session {
    pub client: Client,
    pub chosen: Option<Name>,
    tenant: Option<Name>,
}

impl Session {
    pub async fn connect(global: &Global) -> Outcome<Self> {
        let Chosen { name, context, tenant } = choose(global)?;
        let address = context.address.clone();
        let late = |_| {
            let said =
                format!("no cloud answers at {address}: it took longer than {} s", CLIENT_CONNECT_TIME_MAX.as_secs());
            Failure::new(Exit::Unreachable, said).help("check the address: firm context show")
        };
        let client = tokio::time::timeout(CLIENT_CONNECT_TIME_MAX, Client::connect(context)).await.map_err(late)??;
        Ok(Self { client, chosen: name, tenant })
    }

    /// The cloud of a context, by its name.
    pub async fn of_context(name: &Name) -> Outcome<Self> {
        let global = Global { json: false, tenant: None, context: Some(name.clone()) };
        Self::connect(&global).await
    }

    /// A cloud that no context leads to.
    pub async fn of(context: Context) -> Outcome<Self> {
        let client = tokio::time::timeout(CLIENT_CONNECT_TIME_MAX, Client::connect(context)).await;
        let client = client.map_err(|_| Failure::new(Exit::Unreachable, "the box's cloud doesn't answer"))??;
        Ok(Self { client, chosen: None, tenant: None })
    }

    /// The same cloud, as the same user, asked at another of its boxes.
    pub async fn at(&self, address: String) -> Outcome<Self> {
        let context = Context { address, also: Vec::new(), ..self.client.context().clone() };
        let client = tokio::time::timeout(CLIENT_CONNECT_TIME_MAX, Client::connect(context)).await;
        let client =
            client.map_err(|_| Failure::new(Exit::Unreachable, "another box of the cloud doesn't answer"))??;
        Ok(Self { client, chosen: self.chosen.clone(), tenant: self.tenant.clone() })
    }

    /// The tenant that the command is about: the one that was told, else the token's.
    pub async fn tenant(&self) -> Outcome<Name> {
        if let Some(tenant) = &self.tenant {
            return Ok(tenant.clone());
        }
        let me: Whoami = self.get("/v1/whoami").await?;
        me.tenant.ok_or_else(|| {
            Failure::usage("this is an operator's token, which belongs to no tenant")
                .help("say which: --tenant NAME, or FIRM_TENANT")
        })
    }

    /// The path of something that the tenant has.
    pub async fn of_tenant(&self, rest: &str) -> Outcome<String> {
        Ok(format!("/v1/tenants/{}{rest}", self.tenant().await?))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        within(CLIENT_ANSWER_TIME_MAX, self.client.get(path)).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        within(CLIENT_ANSWER_TIME_MAX, self.client.delete(path)).await
    }

    /// As [`delete`](Self::delete), of something that takes as long as this.
    pub async fn delete_within<T: DeserializeOwned>(&self, path: &str, time: Duration) -> Outcome<T> {
        within(time, self.client.delete(path)).await
    }

    pub async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: &impl Serialize) -> Outcome<T> {
        within(CLIENT_ANSWER_TIME_MAX, self.client.send(method, path, body)).await
    }
}

async fn within<T>(time: Duration, answer: impl Future<Output = Result<T, ClientError>>) -> Outcome<T> {
    let late = |_| {
        let said =
            format!("the cloud didn't answer within {} s; whether it did what was asked is unknown", time.as_secs());
        Failure::new(Exit::Unknown, said).help("look what is wrong with: firm status")
    };
    Ok(tokio::time::timeout(time, answer).await.map_err(late)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_what_stands_before_the_port() {
        assert_eq!(host_of("api.cloud.example:8443"), "api.cloud.example");
        assert_eq!(host_of("api.cloud.example"), "api.cloud.example");
    }
}
