//! `firm domain`: the host names of its own that an app answers to.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use api::{AppView, DomainAdd, DomainView, Done};
use base::Domain;
use clap::Subcommand;
use http::Method;

use super::about::AppArg;
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;
use super::table::Table;
use super::{Cx, when};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  firm domain\n  firm domain add shop.example --chain chain.pem --key key.pem\n  firm domain remove shop.example"
)]
pub(super) struct Args {
    #[command(flatten)]
    about: AppArg,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List them (what `firm domain` alone does)
    #[command(after_help = "Examples:\n  firm domain list --app shop")]
    List,
    /// Answer a domain with the app's live stage
    #[command(
        after_help = "Examples:\n  firm domain add shop.example\n  firm domain add shop.example --chain chain.pem --key key.pem\n\nWithout a certificate of its own, TLS to the domain fails: the cloud signs for its own names alone. To change a\ncertificate, add the domain again. The key is only sent to the cloud, which keeps it encrypted."
    )]
    Add {
        /// The host name
        domain: Domain,
        /// PEM file of its certificate and what signed it, leaf first
        #[arg(long, value_name = "FILE", requires = "key")]
        chain: Option<PathBuf>,
        /// PEM file of the certificate's private key
        #[arg(long, value_name = "FILE", requires = "chain")]
        key: Option<PathBuf>,
    },
    /// Let a domain go
    #[command(after_help = "Examples:\n  firm domain remove shop.example --yes")]
    Remove {
        /// The host name
        domain: Domain,
        /// Don't ask
        #[arg(long, short)]
        yes: bool,
    },
}

pub(super) async fn run(cx: &Cx, args: Args) -> Outcome {
    let app = args.about.name("firm domain")?;
    match args.action {
        None | Some(Action::List) => {
            let session = cx.session().await?;
            let domains: Vec<DomainView> =
                session.get(&args.about.path(&session, "firm domain", "/domains").await?).await?;
            cx.out.answer(&domains, |out| {
                let now = when::now();
                let mut table = Table::new(&["DOMAIN", "ADDED", "CERTIFICATE"]);
                for domain in &domains {
                    let signed = if domain.certificate { "uploaded" } else { "none yet" };
                    table.row([domain.domain.to_string(), when::ago(domain.at, now), signed.to_owned()]);
                }
                table.show(
                    out,
                    &format!("{app} has no domain of its own. Add one: firm domain add shop.example --app {app}"),
                )
            })
        }
        Some(Action::Add { domain, chain, key }) => {
            let body = DomainAdd { chain: pem("--chain", chain.as_deref())?, key: pem("--key", key.as_deref())? };
            let session = cx.session().await?;
            let path = args.about.path(&session, "firm domain", &format!("/domains/{domain}")).await?;
            let done: Done = session.send(Method::PUT, &path, &body).await?;
            let about: AppView = session.get(&args.about.path(&session, "firm domain", "").await?).await?;
            let host = about.url.trim_start_matches("https://").split(['/', ':']).next().unwrap_or_default();
            let certified = body.chain.is_some();
            cx.out.answer(&done, |out| {
                out.line(&format!("{} {domain} is answered by the live stage of {app}", out.paint(Tone::Good, "✓")))?;
                out.line("It needs a DNS record, at whoever keeps the domain's names, if it isn't there yet:")?;
                out.line(&format!("  {domain}.  CNAME  {host}.   (or A and AAAA with the cloud's own addresses)"))?;
                if certified {
                    return out.line("Its certificate was uploaded; add the domain again before that runs out.");
                }
                out.line("It has no certificate yet, so TLS to it fails. Get one for this name, and:")?;
                out.line(&format!("  firm domain add {domain} --app {app} --chain chain.pem --key key.pem"))
            })
        }
        Some(Action::Remove { domain, yes }) => {
            cx.out.confirm(&format!("Let {domain} go from {app}? Its visitors get an error from then on."), yes)?;
            let session = cx.session().await?;
            let path = args.about.path(&session, "firm domain", &format!("/domains/{domain}")).await?;
            let done: Done = session.delete(&path).await?;
            cx.out.answer(&done, |out| out.line(&format!("{} {domain} is gone from {app}", out.paint(Tone::Good, "✓"))))
        }
    }
}

/// The text of the file that `option` names.
fn pem(option: &str, path: Option<&Path>) -> Outcome<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let file = path.display();
    let whole = if option == "--key" { "the certificate's private key" } else { "the certificate and what signed it" };
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::new(Exit::Refused, format!("{option}: there is no file `{file}`"))
            .help(format!("name the PEM file with {whole}; nothing was sent to the cloud")),
        _ => Failure::new(Exit::Refused, format!("{option}: `{file}` can't be read: {error}"))
            .help(format!("it must be the PEM file with {whole}, and yours to read; nothing was sent to the cloud")),
    })?;
    match String::from_utf8(bytes) {
        Ok(text) if text.contains("-----BEGIN ") => Ok(Some(text)),
        _ => Err(Failure::new(Exit::Refused, format!("{option}: `{file}` is not a PEM file")).help(
            "it has a line -----BEGIN; DER is converted by: openssl x509 -inform der -in FILE, or openssl pkey -inform der -in FILE",
        )),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_file_that_is_no_certificate_says_which_option_is_meant() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let der = folder.path().join("der");
        fs::write(&der, [0x30, 0x82, 0xff]).expect("a file for the test");
        let said = |option, path: &Path| {
            let failure = pem(option, Some(path)).expect_err("it is none");
            failure.text("error").expect("it says something").replace(&folder.path().display().to_string(), "~")
        };
        expect![[r"
            error: --chain: there is no file `~/nope`
              help: name the PEM file with the certificate and what signed it; nothing was sent to the cloud"]]
        .assert_eq(&said("--chain", &folder.path().join("nope")));
        expect![[r"
            error: --key: `~/der` is not a PEM file
              help: it has a line -----BEGIN; DER is converted by: openssl x509 -inform der -in FILE, or openssl pkey -inform der -in FILE"]]
        .assert_eq(&said("--key", &der));
        assert!(pem("--chain", None).is_ok_and(|text| text.is_none()));
    }
}
