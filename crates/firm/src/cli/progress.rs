//! Shows how far a push is: bars on a terminal, nothing elsewhere.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use studio::push::{Step, Told};

use super::out::Out;

const SPINNER: &str = "{spinner} {wide_msg}";
const BAR: &str = "{msg:10} [{bar:32}] {bytes}/{total_bytes}  {eta}";

/// What the bar is about now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Building,
    Hashing,
    Encoding,
    Uploading,
    Releasing,
}

/// The bar of one push.
pub(super) struct Progress {
    bar: ProgressBar,
    phase: Mutex<Option<Phase>>,
    releasing: AtomicBool,
}

impl Progress {
    pub(super) fn new(out: &Out) -> Arc<Self> {
        let target = if out.is_interactive() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        Arc::new(Self { bar, phase: Mutex::new(None), releasing: AtomicBool::new(false) })
    }

    /// What a push tells.
    pub(super) fn told(self: &Arc<Self>) -> Told {
        let progress = Arc::clone(self);
        Arc::new(move |step| progress.step(step))
    }

    /// Was the release asked for? From then on an interruption leaves the outcome unknown.
    pub(super) fn is_releasing(&self) -> bool {
        self.releasing.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn step(&self, step: Step<'_>) {
        match step {
            Step::Building(said) => {
                self.enter(Phase::Building);
                self.bar.set_message(said.trim().to_owned());
            }
            Step::Hashing { done, total } => self.count(Phase::Hashing, "Reading", done, total),
            Step::Encoding { done, total } => self.count(Phase::Encoding, "Encoding", done, total),
            Step::Uploading { done, total } => self.count(Phase::Uploading, "Uploading", done, total),
            Step::Releasing => {
                self.releasing.store(true, Ordering::Relaxed);
                self.enter(Phase::Releasing);
                self.bar.set_message("The cloud compiles and switches");
            }
        }
    }

    fn count(&self, phase: Phase, said: &'static str, done: u64, total: u64) {
        if self.enter(phase) {
            self.bar.set_message(said);
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Redraws for a new phase. Was it new?
    fn enter(&self, phase: Phase) -> bool {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if now.replace(phase) == Some(phase) {
            return false;
        }
        let template = if matches!(phase, Phase::Building | Phase::Releasing) { SPINNER } else { BAR };
        self.bar.reset();
        self.bar.set_style(ProgressStyle::with_template(template).expect("the templates above are well-formed"));
        self.bar.enable_steady_tick(Duration::from_millis(100));
        true
    }
}
