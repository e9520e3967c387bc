//! What a box answers by its roles, over real sockets.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::listen::Node;
use crate::tier::town::{Town, town};

async fn asked(town: &Town, number: usize, host: &'static str) -> String {
    let address = town.clouds[number].settings.plain;
    let ask = move || {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    tokio::task::spawn_blocking(ask).await.expect("it doesn't panic").expect("it answers")
}

/// Before, it served whatever the record had, and ran tenants' code beside their data.
#[tokio::test]
async fn a_box_that_runs_no_apps_says_so() {
    let town = town(&["persistence", "web", "auth", "persistence,web"]).await;
    let nodes: Vec<_> =
        town.clouds.iter().map(|cloud| Node::start(Arc::clone(cloud)).expect("its ports are free")).collect();
    for host in ["shop.acme.localhost", "nobody.example"] {
        for (number, status) in [(0, "421"), (1, "404"), (2, "421"), (3, "404")] {
            let answer = asked(&town, number, host).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "box {number}: {answer}");
            assert_eq!(answer.contains("This box serves no apps."), status == "421", "{answer}");
        }
    }
    for node in nodes {
        assert_eq!(node.drain(Duration::from_secs(9)).await, 0);
    }
}
