//! The management API: its endpoints, its types, the OpenAPI text made from both, and a client.
//!
//! [`ENDPOINTS`] is the one list. The server dispatches over it, the OpenAPI text is written from it, and the
//! tests try each of its rows with every kind of wrong caller; so an endpoint that isn't here doesn't exist.

mod client;
mod endpoint;
mod openapi;
mod types;

pub use client::{Client, ClientError, Context};
pub use endpoint::{Body, ENDPOINTS, Endpoint, Found, Method, Needs, Operation, Parameter, find};
pub use openapi::openapi;
pub use types::*;
