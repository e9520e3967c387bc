//! `firm context`: the clouds that this user works with. Tokens are never shown.

use std::fs;
use std::path::PathBuf;

use api::{Client, Context, Whoami};
use base::Name;
use base::limits::CLIENT_CONNECT_TIME_MAX;
use clap::Subcommand;
use serde::Serialize;

use super::Cx;
use super::contexts::{self, Contexts};
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::secret::piped;
use super::session::{choose, host_of};
use super::table::{Table, or_dash};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm context\n  firm context use local\n  firm context add work --address api.cloud.example:8443 --authority ca.pem"
)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them (what `firm context` alone does)
    #[command(after_help = "Examples:\n  firm context list --json")]
    List,
    /// Use this one from now on
    #[command(after_help = "Examples:\n  firm context use work")]
    Use {
        /// The context
        #[arg(value_name = "CONTEXT")]
        name: Name,
    },
    /// Show what commands use, without its token
    #[command(after_help = "Examples:\n  firm context show\n  firm context show --context work --json")]
    Show,
    /// Add a cloud, or write it anew; the token is asked for, or read from `FIRM_TOKEN`
    #[command(
        after_help = "Examples:\n  firm context add work --address api.cloud.example:8443 --authority ca.pem\n  firm context add work --address 10.0.0.7:8443 --host api.cloud.example --authority ca.pem --tenant acme --stdin < token\n\nThe cloud is asked whose token it is before anything is kept."
    )]
    Add {
        /// What to call it
        #[arg(value_name = "CONTEXT")]
        name: Name,
        /// Where it is
        #[arg(long, value_name = "HOST:PORT")]
        address: String,
        /// The API's host name in its certificate [default: the address's]
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        /// PEM file of the authority that signs the cloud's certificates
        #[arg(long, value_name = "FILE")]
        authority: PathBuf,
        /// Read the token from standard input
        #[arg(long)]
        stdin: bool,
        /// Don't use it from now on
        #[arg(long)]
        keep_current: bool,
    },
    /// Forget a cloud and its token
    #[command(after_help = "Examples:\n  firm context remove work")]
    Remove {
        /// The context
        #[arg(value_name = "CONTEXT")]
        name: Name,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// A context as it may be shown.
#[derive(Serialize)]
struct Shown<'a> {
    context: Option<&'a Name>,
    address: &'a str,
    host: &'a str,
    /// None where only the token tells.
    tenant: Option<&'a Name>,
    current: bool,
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    let folder = contexts::folder()?;
    match args.action {
        None | Some(Action::List) => list(cx, &contexts::load(&folder)?),
        Some(Action::Show) => show(cx, &contexts::load(&folder)?),
        Some(Action::Use { name }) => {
            known(&contexts::load(&folder)?, &name)?;
            contexts::change(&folder, |contexts| contexts.current = Some(name.clone()))?;
            done(cx, &name, "is used from now on")
        }
        Some(Action::Add { name, address, host, authority, stdin, keep_current }) => {
            let context = made(cx, address, host, &authority, stdin).await?;
            contexts::register(&name, context, !keep_current)?;
            done(cx, &name, "is kept")
        }
        Some(Action::Remove { name, yes }) => {
            known(&contexts::load(&folder)?, &name)?;
            cx.out.confirm(&format!("Forget context {name} and its token?"), yes)?;
            contexts::change(&folder, |contexts| {
                contexts.contexts.remove(&name);
                contexts.current.take_if(|current| *current == name);
            })?;
            done(cx, &name, "is forgotten")
        }
    }
}

fn done(cx: &Cx, name: &Name, what: &str) -> Outcome {
    #[derive(Serialize)]
    struct Answer<'a> {
        done: bool,
        context: &'a Name,
    }
    cx.out.answer(&Answer { done: true, context: name }, |out| {
        out.line(&format!("{} context {name} {what}", out.paint(Tone::Good, "✓")))
    })
}

fn known(contexts: &Contexts, name: &Name) -> Outcome {
    if contexts.contexts.contains_key(name) {
        return Ok(());
    }
    Err(Failure::new(Exit::NotFound, format!("there is no context `{name}`"))
        .help("see what there is with: firm context list"))
}

fn list(cx: &Cx, contexts: &Contexts) -> Outcome {
    let shown: Vec<Shown<'_>> = contexts
        .contexts
        .iter()
        .map(|(name, context)| Shown {
            context: Some(name),
            address: &context.address,
            host: &context.host,
            tenant: Some(&context.tenant),
            current: contexts.current.as_ref() == Some(name),
        })
        .collect();
    cx.out.answer(&shown, |out| {
        let mut table = Table::new(&["", "CONTEXT", "ADDRESS", "TENANT"]);
        for context in &shown {
            let name = context.context.map(ToString::to_string).unwrap_or_default();
            let mark = if context.current { "*" } else { "" };
            table.row([mark.to_owned(), name, context.address.to_owned(), or_dash(context.tenant)]);
        }
        table.show(out, "There is no context yet. Start a cloud on this machine: firm up")
    })
}

fn show(cx: &Cx, contexts: &Contexts) -> Outcome {
    let chosen = choose(&cx.global)?;
    let shown = Shown {
        context: chosen.name.as_ref(),
        address: &chosen.context.address,
        host: &chosen.context.host,
        tenant: chosen.tenant.as_ref(),
        current: chosen.name.is_some() && chosen.name == contexts.current,
    };
    cx.out.answer(&shown, |out| {
        let name = shown.context.map_or_else(|| "(from FIRM_ADDRESS)".to_owned(), ToString::to_string);
        out.line(&format!("context  {name}"))?;
        out.line(&format!("address  {}", shown.address))?;
        out.line(&format!("host     {}", shown.host))?;
        out.line(&format!("tenant   {}", shown.tenant.map_or("(the token's)", Name::as_str)))
    })
}

/// A context whose cloud answered and knows the token.
async fn made(cx: &Cx, address: String, host: Option<String>, authority: &PathBuf, stdin: bool) -> Outcome<Context> {
    let unreadable = |error| Failure::new(Exit::Refused, format!("`{}` can't be read: {error}", authority.display()));
    let pem = fs::read_to_string(authority).map_err(unreadable)?;
    let token = match std::env::var("FIRM_TOKEN").ok().filter(|token| !token.is_empty()) {
        _ if stdin => piped()?,
        Some(token) => token,
        None => cx.out.ask_secret("Token (not shown)")?,
    };
    let host = host.unwrap_or_else(|| host_of(&address).to_owned());
    let tenant = cx.global.tenant.clone();
    let placeholder = || "default".parse().expect("it is a name");
    let mut context = Context {
        address,
        also: Vec::new(),
        host,
        authority: pem,
        token,
        tenant: tenant.clone().unwrap_or_else(placeholder),
    };
    let asking = async { Client::connect(context.clone()).await?.get::<Whoami>("/v1/whoami").await };
    let late = |_| {
        Failure::new(Exit::Unreachable, format!("no cloud answers at {}", context.address)).help("check the address")
    };
    let me = tokio::time::timeout(CLIENT_CONNECT_TIME_MAX, asking).await.map_err(late)??;
    context.tenant = tenant.or(me.tenant).ok_or_else(|| {
        Failure::usage("this is an operator's token, which belongs to no tenant")
            .help("say which tenant commands are about: --tenant NAME")
    })?;
    Ok(context)
}
