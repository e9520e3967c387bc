//! `firm token`: what proves a person or a pipeline to the cloud.

use api::{Done, TokenCreate, TokenCreated, TokenView};
use base::{Span, TokenId, UnitError};
use clap::{Subcommand, ValueEnum};
use http::Method;
use state::Grant;

use super::failure::Outcome;
use super::out::Tone;
use super::session::Session;
use super::table::Table;
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm token\n  firm token create --grant deploy --label ci --expires 30d\n  firm token revoke 00a1b2c3d4e5f607"
)]
pub(super) struct Args {
    /// The operators' tokens, which belong to no tenant
    #[arg(long, global = true)]
    operators: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them (what `firm token` alone does)
    #[command(after_help = "Examples:\n  firm token list\n  firm token list --operators")]
    List,
    /// Make a token; its secret is shown this once
    #[command(
        after_help = "Examples:\n  firm token create --grant deploy --label ci --expires 30d\n  export FIRM_TOKEN=\"$(firm token create --grant read --label report --json | jq -r .secret)\""
    )]
    Create {
        /// What its holder may do; each includes the ones before it
        #[arg(long, value_enum)]
        grant: Held,
        /// What you call it: who has it, and what for
        #[arg(long)]
        label: String,
        /// When it ends, as in 12h or 30d [default: never]
        #[arg(long, value_name = "SPAN", value_parser = life)]
        expires: Option<Span>,
    },
    /// Revoke a token, at once
    #[command(after_help = "Examples:\n  firm token revoke 00a1b2c3d4e5f607 --yes")]
    Revoke {
        /// Its id, as `firm token list` shows it
        id: TokenId,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// The grants, as the command line spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Held {
    /// See the tenant's private stages
    Visit,
    /// Read its apps, releases and logs
    Read,
    /// Push, promote, roll back, set variables and secrets
    Deploy,
    /// Manage its tokens and domains, and delete apps
    Own,
    /// Manage every tenant
    Operate,
}

impl Held {
    fn grant(self) -> Grant {
        match self {
            Self::Visit => Grant::Visit,
            Self::Read => Grant::Read,
            Self::Deploy => Grant::Deploy,
            Self::Own => Grant::Own,
            Self::Operate => Grant::Operate,
        }
    }
}

/// How long a token lives, which the cloud counts in seconds.
fn life(text: &str) -> Result<Span, String> {
    let span: Span = text.parse().map_err(|error: UnitError| error.to_string())?;
    if span.0.as_secs() > 0 {
        return Ok(span);
    }
    Err("it would end at once: write 1s or longer, as in 12h or 30d, or leave it out for one that never ends"
        .to_owned())
}

fn word(grant: Grant) -> &'static str {
    match grant {
        Grant::Visit => "visit",
        Grant::Read => "read",
        Grant::Deploy => "deploy",
        Grant::Own => "own",
        Grant::Operate => "operate",
    }
}

/// The operators' tokens and a tenant's are kept apart.
async fn place(session: &Session, operators: bool) -> Outcome<String> {
    if operators { Ok("/v1/tokens".to_owned()) } else { session.of_tenant("/tokens").await }
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    match args.action {
        None | Some(Action::List) => list(cx, args.operators).await,
        Some(Action::Create { grant, label, expires }) => {
            let session = cx.session().await?;
            let path = place(&session, args.operators || grant == Held::Operate).await?;
            let body = TokenCreate { label, grant: grant.grant(), expires_in: expires.map(|span| span.0.as_secs()) };
            let made: TokenCreated = session.send(Method::POST, &path, &body).await?;
            cx.out.answer(&made, |out| {
                out.note(&format!("Token {}. Its secret is shown this once:", made.token));
                out.line(&made.secret)
            })
        }
        Some(Action::Revoke { id, yes }) => {
            cx.out.confirm(&format!("Revoke token {id}? Whoever uses it is locked out at once."), yes)?;
            let session = cx.session().await?;
            let path = place(&session, args.operators).await?;
            let done: Done = session.delete(&format!("{path}/{id}")).await?;
            cx.out.answer(&done, |out| out.line(&format!("{} token {id} is revoked", out.paint(Tone::Good, "✓"))))
        }
    }
}

async fn list(cx: &Cx, operators: bool) -> Outcome {
    let session = cx.session().await?;
    let tokens: Vec<TokenView> = session.get(&place(&session, operators).await?).await?;
    let whose = if operators { "--operators".to_owned() } else { format!("--tenant {}", session.tenant().await?) };
    cx.out.answer(&tokens, |out| {
        let now = when::now();
        let mut table = Table::new(&["TOKEN", "GRANT", "LABEL", "CREATED", "ENDS"]);
        for token in &tokens {
            table.row([
                token.token.to_string(),
                word(token.grant).to_owned(),
                token.label.clone(),
                when::ago(token.created, now),
                when::until(token.expires, now),
            ]);
        }
        table.show(
            out,
            &format!("There are no tokens here yet. Make one: firm token create {whose} --grant deploy --label ci"),
        )
    })
}
