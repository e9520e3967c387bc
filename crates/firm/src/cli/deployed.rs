//! Says what a push, promotion or rollback ended in, the same way for all of them.

use api::Deployed;
use base::Name;

use super::failure::Outcome;
use super::out::{Out, Tone};

/// For people: what runs where, and what is likely not meant. `how` follows the first sentence.
pub(super) fn show(out: &Out, deployed: &Deployed, how: &str) -> Outcome {
    let Deployed { url, app, stage, release, public, unchanged, .. } = deployed;
    let done = out.paint(Tone::Good, "✓");
    if *unchanged {
        out.line(&format!("{done} nothing changed: {app} runs {release} on {stage} already{how}"))?;
    } else {
        out.line(&format!("{done} {app} runs {release} on {stage}{how}"))?;
    }
    out.line(&out.paint(Tone::Strong, url))?;
    if !public {
        out.line(&format!("Only members see it. To show it around: {}", share(app, stage)))?;
    }
    for warning in &deployed.warnings {
        out.warn(warning);
    }
    Ok(())
}

/// The command that makes a link to a private stage.
pub(super) fn share(app: &Name, stage: &Name) -> String {
    format!("firm stages share {stage} --app {app}")
}
