//! The developer's side: finds a project, builds it, and pushes what the cloud lacks of it.
//!
//! A push reads the manifest ([`project`]), builds the components ([`build`]), lists the static files
//! ([`assets`]), cuts everything into chunks and sends the missing ones ([`push`]). [`templates`] holds the
//! projects that people start from.
//!
//! *Architecture invariant:* nothing here prints or asks. What happens is told through closures, so that the
//! command line, a test and a console can each show it their own way.

pub mod assets;
pub mod build;
mod chunk;
mod encode;
pub mod project;
pub mod push;
pub mod templates;
