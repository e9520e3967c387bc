//! The command line: one file a noun below [`cli`](self), and what they all share.
//!
//! Commands are spelled so that scripts can rely on them: `--json` gives one object or array, exit codes mean
//! one thing each ([`exit`]), nothing is asked where nobody can answer.

mod about;
mod apply;
mod apps;
mod boxes;
mod cloud;
mod completions;
mod context;
pub mod contexts;
mod deployed;
mod difference;
mod domain;
mod env;
mod evict;
pub mod exit;
pub mod failure;
mod firming;
mod joining;
mod lab;
mod logs;
mod new;
mod open;
mod operator;
pub mod out;
mod progress;
mod promote;
mod push;
mod reference;
mod releases;
mod rollback;
mod schema;
mod secret;
mod segment;
pub mod session;
mod stages;
mod status;
mod table;
mod tenant;
mod token;
pub mod when;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::boxed::{self, BoxArgs};
use crate::up::{self, UpArgs};
pub use apply::schema as cloud_schema;
use exit::Exit;
use failure::{Failure, Outcome};
use out::Out;
pub use reference::reference;
use session::{Global, Session};

/// Firmament: a cloud on your own machines
///
/// `firm up` runs a whole cloud on this machine; `firm push` puts a site or an app on it.
#[derive(Debug, Parser)]
#[command(name = "firm", version, propagate_version = false, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cloud on this machine
    Up(UpArgs),
    /// Run one box, which waits to be told what it is
    Box(BoxArgs),
    /// List the boxes of this segment
    Boxes(boxes::Args),
    /// Wipe boxes and turn them into their roles: the first founds a cloud, others join it
    Firm(firming::FirmArgs),
    /// Have a box leave its cloud, wipe it, and leave it blank
    Reset(firming::ResetArgs),
    /// Put a lost box out of its cloud, for good
    Evict(evict::Args),
    /// Make a whole cloud what one file says
    Apply(apply::Args),
    /// Print the file from which this cloud could be made anew
    Export(apply::ExportArgs),
    /// Show the key by which boxes know you, or make a seal for them
    Operator(operator::Args),
    /// Start a project
    New(new::Args),
    /// Build a project, upload what the cloud lacks of it, and run it on a stage
    Push(push::Args),
    /// List an app's releases
    Releases(releases::Args),
    /// Run an earlier release again, with its configuration and variables
    Rollback(rollback::Args),
    /// Run on `live`, or another stage, what a stage runs
    Promote(promote::Args),
    /// List an app's stages, delete one, or share one
    Stages(stages::Args),
    /// Show an app's log
    Logs(logs::Args),
    /// List or change the variables of a stage
    Env(env::Args),
    /// List, set or delete the secrets of a stage
    Secret(secret::Args),
    /// List, add or remove an app's own domains
    Domain(domain::Args),
    /// Open an app in the browser, or print its address
    Open(open::Args),
    /// Say whether the cloud serves, and what isn't as it should be
    Status(status::Args),
    /// List a tenant's apps, or delete one
    Apps(apps::Args),
    /// List, add or delete tenants (for operators)
    Tenant(tenant::Args),
    /// List, create or revoke tokens
    Token(token::Args),
    /// List, choose, show, add or remove the clouds that you work with
    Context(context::Args),
    /// Print the JSON Schema of firm.toml or cloud.toml, for editors
    Schema(schema::Args),
    /// Run a practice segment on this machine: boxes as processes in network namespaces
    Lab(lab::Args),
    /// Print shell completions
    Completions(completions::Args),
    /// The compile process: started by the node, never by people
    #[command(hide = true)]
    Compile,
}

/// What a command works with.
struct Cx {
    global: Global,
    out: Out,
}

impl Cx {
    async fn session(&self) -> Outcome<Session> {
        Session::connect(&self.global).await
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return misused(&error, &arguments),
    };
    match cli.command {
        Command::Compile => compile(),
        command => {
            let cx = Cx { out: Out::new(cli.global.json), global: cli.global };
            let outcome = match &command {
                Command::Up(args) => up::run(args, cx.out.clone()),
                Command::Box(args) => boxed::run(args, &cx.out),
                Command::Lab(args) => lab::run(&cx, args),
                _ => run(&cx, command),
            };
            let exit = match outcome {
                Ok(()) => Exit::Done,
                Err(failure) => {
                    cx.out.fail(&failure);
                    failure.exit
                }
            };
            exit.code().into()
        }
    }
}

fn compile() -> ExitCode {
    sandbox::compile_process()
}

/// The command line's definition, its help complete.
pub fn definition() -> clap::Command {
    let after = format!(
        "Exit codes:\n{}\nThe environment stands in for flags in CI: FIRM_CONTEXT and FIRM_TENANT, or FIRM_ADDRESS (host:port),\n\
         FIRM_TOKEN and FIRM_AUTHORITY (a PEM file) in place of a context. NO_COLOR turns colour off.",
        exit::table()
    );
    Cli::command().after_long_help(after)
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&definition().try_get_matches_from(arguments)?)
}

/// Shows help, or says what is wrong with the command line.
fn misused(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let is_json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    if error.use_stderr() && is_json {
        let text = error.render().to_string();
        // What is wrong, then the usage and where to read more.
        let (said, rest) = text.trim().trim_start_matches("error: ").split_once("\n\n").unwrap_or((text.trim(), ""));
        Out::new(true).fail(&Failure::usage(said).help(rest.replace("\n\n", "\n")));
    } else {
        // Help into a pipe that nobody reads is no failure.
        let _ = error.print();
    }
    if error.use_stderr() { Exit::Usage.code().into() } else { ExitCode::SUCCESS }
}

fn run(cx: &Cx, command: Command) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Refused, format!("the async runtime can't start: {error}")))?;
    let outcome = runtime.block_on(dispatch(cx, command));
    // A build that was interrupted is not waited for: its tool got the same Ctrl-C.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(cx: &Cx, command: Command) -> Outcome {
    match command {
        Command::Boxes(args) => boxes::run(cx, args).await,
        Command::Firm(args) => Box::pin(firming::firm(cx, args)).await,
        Command::Reset(args) => Box::pin(firming::reset(cx, args)).await,
        Command::Evict(args) => evict::run(cx, args).await,
        Command::Apply(args) => Box::pin(apply::apply(cx, args)).await,
        Command::Export(args) => apply::write_back(cx, &args).await,
        Command::Operator(args) => operator::run(cx, args),
        Command::New(args) => new::run(cx, &args),
        Command::Push(args) => Box::pin(push::run(cx, args)).await,
        Command::Releases(args) => releases::run(cx, &args).await,
        Command::Rollback(args) => rollback::run(cx, &args).await,
        Command::Promote(args) => promote::run(cx, &args).await,
        Command::Stages(args) => stages::run(cx, &args).await,
        Command::Logs(args) => logs::run(cx, &args).await,
        Command::Env(args) => env::run(cx, args).await,
        Command::Secret(args) => secret::run(cx, args).await,
        Command::Domain(args) => domain::run(cx, args).await,
        Command::Open(args) => open::run(cx, &args).await,
        Command::Status(_) => status::run(cx).await,
        Command::Apps(args) => apps::run(cx, args).await,
        Command::Tenant(args) => tenant::run(cx, args).await,
        Command::Token(args) => token::run(cx, args).await,
        Command::Context(args) => context::run(cx, args).await,
        Command::Schema(args) => schema::run(cx, &args),
        Command::Completions(args) => completions::run(cx, &args),
        Command::Up(_) | Command::Box(_) | Command::Lab(_) | Command::Compile => {
            unreachable!("`main` runs these without a runtime around them")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        definition().debug_assert();
    }

    #[test]
    fn what_scripts_rely_on_parses() {
        for line in [
            "firm push apps/site --app site --stage redesign --json",
            "firm --json push",
            "firm rollback --app site --yes",
            "firm rollback --app site --stage redesign --to r3 --yes",
            "firm promote redesign",
            "firm promote --stage redesign --to beta --app site",
            "firm stages",
            "firm stages list --app site",
            "firm stages --app site share redesign --expires 2h",
            "firm logs -f -n 10 --request 00ab --stage live",
            "firm env set A=b C=d=e --stage redesign",
            "firm secret set API_KEY --stdin --app site",
            "firm token create --grant deploy --label ci --expires 30d",
            "firm tenant limit acme",
            "firm tenant limit acme --json",
            "firm tenant limit acme --rate 500/s --burst 1000",
            "firm tenant limit acme --none",
            "firm --context local --tenant acme tenant add other",
            "firm box --dir /srv/box --seal seal.json --port 8443",
            "firm boxes --at 10.0.0.7 --at [fd00::7]:99 --listen 0s --json",
            "firm firm solo amber-otter --words river,candy,fabric,orbit --label rack=7",
            "firm firm persistence,web amber-otter",
            "firm firm persistence amber-otter brisk-heron --words amber-otter=river,candy,fabric,orbit --new",
            "firm reset amber-otter --yes",
            "firm evict amber-otter --lose-data --yes",
            "firm apply cloud.toml --wait --timeout 10m --words amber-otter=river,candy,fabric,orbit",
            "firm apply cloud.toml --dry-run --json",
            "firm export",
            "firm operator seal --out seal.json --valid 30d",
            "firm context add ci --address x:8443 --authority ca.pem --tenant acme",
            "firm lab up --boxes 6 --segments 2 --seal order.key --detach --json",
            "firm lab cut b1,b2 segment-b --one-way",
            "firm lab heal",
            "firm lab slow b1 --delay 50ms --loss 1%",
            "firm lab exec b1 -- ip address",
            "firm lab --dir /tmp/x down",
            "firm lab log b1 -f",
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert!(
                parse(&words).is_ok(),
                "{line}: {}",
                parse(&words).err().map(|error| error.to_string()).unwrap_or_default()
            );
        }
    }

    #[test]
    fn a_wrong_value_is_told_what_to_write() {
        for (line, wanted) in [
            ("firm up --port abc", "a port is a whole number from 1 to 65535"),
            ("firm up --http-port 0", "a port is a whole number from 1 to 65535"),
            ("firm up --port 70000", "a port is a whole number from 1 to 65535"),
            ("firm token create --grant read --label ci --expires 0s", "it would end at once: write 1s or longer"),
            ("firm token create --grant read --label ci --expires 999ms", "leave it out for one that never ends"),
            ("firm stages share beta --expires 0s", "it would end at once: write 1s to 30d"),
            ("firm stages share beta --expires 31d", "it would last too long: write 1s to 30d"),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let said = parse(&words).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(wanted), "{line}: {said}");
        }
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
                assert!(inner.get_about().is_some(), "{}", inner.get_name());
                assert!(inner.get_after_help().is_some(), "{} has no example", inner.get_name());
                check(inner);
            }
        }
        check(&definition());
    }
}
