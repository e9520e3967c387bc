//! `firm new`: a project to start from.

use std::path::PathBuf;

use base::Name;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Serialize;
use studio::templates::{self, Template};

use super::Cx;
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::out::Tone;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  firm new till --template js\n  firm new docs --template static --path sites/docs")]
pub(super) struct Args {
    /// What the app will be called
    name: Name,
    /// What it starts as
    #[arg(long, value_parser = template_parser())]
    template: Template,
    /// The folder to write [default: the app's name]
    #[arg(long, value_name = "FOLDER")]
    path: Option<PathBuf>,
}

fn template_parser() -> impl TypedValueParser<Value = Template> {
    let values = Template::ALL.map(|template| PossibleValue::new(template.name()).help(template.summary()));
    PossibleValuesParser::new(values).map(|name| {
        Template::ALL.into_iter().find(|template| template.name() == name).expect("only their names are let through")
    })
}

#[derive(Serialize)]
struct Created<'a> {
    app: &'a Name,
    path: String,
    template: &'static str,
    next: [String; 2],
}

pub(super) fn run(cx: &Cx, args: &Args) -> Outcome {
    let folder = args.path.clone().unwrap_or_else(|| PathBuf::from(args.name.as_str()));
    templates::create(args.template, &args.name, &folder).map_err(|error| Failure::of(Exit::Refused, &error))?;
    let path = folder.display().to_string();
    let next = [format!("cd {path}"), "firm push".to_owned()];
    let created = Created { app: &args.name, path, template: args.template.name(), next };
    cx.out.answer(&created, |out| {
        out.line(&format!(
            "{} {} is {}, in {}",
            out.paint(Tone::Good, "✓"),
            args.name,
            args.template.summary(),
            created.path
        ))?;
        out.line("Next:")?;
        created.next.iter().try_for_each(|command| out.line(&format!("  {command}")))
    })
}
