//! What a box shows on its console, for whoever stands there. It takes no commands.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use base::BoxId;
use base::limits::TWINS_TOLD_MAX;
use segment::knock::{About, Caller};
use segment::{Gday, Sighting};

use crate::cli::out::{Out, Tone};

#[derive(Clone)]
pub(super) struct Console {
    out: Out,
    me: BoxId,
    shown: Arc<Mutex<Shown>>,
}

/// What stands there already: a console repeats nothing.
#[derive(Default)]
struct Shown {
    standing: String,
    addresses: Vec<SocketAddr>,
    twins: Vec<String>,
}

impl Console {
    pub(super) fn new(out: Out, me: BoxId) -> Self {
        Self { out, me, shown: Arc::default() }
    }

    /// A console that nobody reads is no reason to stop.
    fn line(&self, text: &str) {
        let _ = self.out.line(text);
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, port: u16) {
        let name = self.me.name();
        self.line(&format!(
            "G'day. This box is {}  ({}), and its door is port {port}.",
            self.out.paint(Tone::Strong, name.as_str()),
            self.me.long_name(),
        ));
    }

    /// The box's own addresses, as its segment hears them; and whoever has the same key.
    pub(super) fn heard(&self, gday: &Gday) {
        let (mine, twins): (Vec<Sighting>, Vec<Sighting>) = gday
            .sightings()
            .into_iter()
            .filter(|sighting| sighting.claims.id == self.me)
            .partition(|sighting| sighting.mark == *gday.mark());
        let mut shown = self.shown();
        if let Some(mine) = mine.into_iter().next()
            && mine.addresses != shown.addresses
        {
            let hosts: Vec<_> = mine.addresses.iter().map(|address| address.ip().to_string()).collect();
            self.line(&format!("addresses  {}", hosts.join("  ")));
            shown.addresses = mine.addresses;
        }
        let hosts =
            |twin: &Sighting| twin.addresses.first().map_or_else(String::new, |address| address.ip().to_string());
        let twins: Vec<_> = twins.iter().map(hosts).collect();
        for twin in twins {
            if shown.twins.len() >= TWINS_TOLD_MAX || shown.twins.contains(&twin) {
                continue;
            }
            let said = format!(
                "another box at {twin} says that it has this box's key: was its disk copied? `firm boxes` shows whether \
                 it does; if so, stop one of them, remove box/identity.key from its directory, and start it again"
            );
            self.out.warn(&said);
            tracing::warn!(twin, "another box says that it has this box's key");
            shown.twins.push(twin);
        }
    }

    pub(super) fn standing(&self, about: &About) {
        let mut text = about.standing.clone();
        if let (Some(cloud), Some(roles)) = (&about.cloud_name, &about.roles) {
            text = format!("{text}: {roles} of cloud {cloud}");
        }
        if let Some(why) = &about.why {
            text = format!("{text}  ({why})");
        }
        let mut shown = self.shown();
        if shown.standing == text {
            return;
        }
        self.line(&format!("{}  {text}", about.id.name()));
        if about.standing == "blank" {
            self.line(&format!("           tell it what it is:  firm firm solo {}", about.id.name()));
        }
        shown.standing = text;
    }

    /// Somebody new is introduced.
    pub(super) fn introduced(&self, caller: &Caller) {
        self.line(&format!(
            "proof words for {} at {}:  {}",
            caller.introduction.with.name(),
            caller.address.ip().to_canonical(),
            self.out.paint(Tone::Strong, &caller.introduction.words.to_string()),
        ));
    }
}
