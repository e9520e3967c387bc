//! The node of a firm box, within the box's process.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base::limits::{CONNECTIONS_PER_CLIENT_DEFAULT, INSTANCES_MEMORY_PERCENT};
use web::{Cloud, Node, Settings};

use super::disk::Setup;
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, Outcome};
use crate::process;
use crate::up::not_listening;

/// Where the node listens.
pub(super) struct Ports {
    pub(super) listen: IpAddr,
    pub(super) tls: u16,
    pub(super) plain: u16,
}

/// A node that serves.
pub(super) struct BoxNode {
    cloud: Arc<Cloud>,
    node: Node,
}

impl BoxNode {
    /// Opens what the disk holds and serves.
    pub(super) async fn start(dir: PathBuf, setup: &Setup, ports: &Ports) -> Outcome<Self> {
        let memory = process::machine_memory();
        let guest_memory = memory / 100 * INSTANCES_MEMORY_PERCENT;
        let settings = Settings {
            dir,
            domain: setup.domain.clone(),
            tls: SocketAddr::new(ports.listen, ports.tls),
            plain: SocketAddr::new(ports.listen, ports.plain),
            serve_plain: false,
            connections_per_client: CONNECTIONS_PER_CLIENT_DEFAULT,
            compiler: process::compiler()?,
            private_hosts: Vec::new(),
            guest_memory,
            process_memory: process::process_memory(guest_memory, memory),
            otlp: None,
            tier: None,
        };
        let cloud = Cloud::open(settings).map_err(|error| Failure::of(Exit::Refused, &error))?;
        let node = Node::start(Arc::clone(&cloud)).map_err(|error| not_listening(&error))?;
        cloud.found_tenant(&setup.tenant).await.map_err(|error| Failure::of(Exit::Refused, &error))?;
        Ok(Self { cloud, node })
    }

    pub(super) fn cloud(&self) -> Arc<Cloud> {
        Arc::clone(&self.cloud)
    }

    /// Waits until the node is no more, and says why.
    pub(super) async fn died(&mut self) -> String {
        self.node.failed().await
    }

    pub(super) async fn stop(self, drain: Duration) {
        drop(self.cloud);
        let cut = self.node.drain(drain).await;
        if cut > 0 {
            tracing::warn!(cut, "connections were cut: they took longer than the drain");
        }
    }
}
