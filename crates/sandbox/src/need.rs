//! What an import of a component asks for.

/// What must be granted before an import works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// Every component has it: clocks, random, stdio, `wasi:http/types`, and the files and sockets that it
    /// may ask for and will find none of.
    Always,
    /// `wasi:keyvalue`: works for the buckets that the manifest lists under `kv`.
    KeyValue,
    /// `wasi:config`: env and secrets; empty if the manifest has none.
    Config,
    /// `wasi:http/outgoing-handler` (0.2) or `wasi:http/client` (0.3): works for the manifest's outbound hosts.
    OutgoingHttp,
    /// Nobody here provides it.
    Unknown,
}

/// What the import `name` (as `wasi:keyvalue/store@0.2.0-draft2`) asks for.
#[must_use]
pub fn need(name: &str) -> Need {
    let interface = name.split_once('@').map_or(name, |(interface, _)| interface);
    let Some((package, interface)) = interface.split_once('/') else {
        return Need::Unknown;
    };
    match (package, interface) {
        ("wasi:http", "outgoing-handler" | "client") => Need::OutgoingHttp,
        ("wasi:http", "types")
        | ("wasi:cli" | "wasi:clocks" | "wasi:filesystem" | "wasi:io" | "wasi:random" | "wasi:sockets", _) => {
            Need::Always
        }
        ("wasi:keyvalue", "store" | "atomics" | "batch") => Need::KeyValue,
        ("wasi:config", "store") => Need::Config,
        _ => Need::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::{Need, need};

    #[test]
    fn an_import_is_known_by_its_interface() {
        for (import, wanted) in [
            ("wasi:cli/stdout@0.2.6", Need::Always),
            ("wasi:http/types@0.3.0", Need::Always),
            ("wasi:sockets/tcp@0.2.3", Need::Always),
            ("wasi:http/outgoing-handler@0.2.4", Need::OutgoingHttp),
            ("wasi:http/client@0.3.0", Need::OutgoingHttp),
            ("wasi:keyvalue/atomics@0.2.0-draft2", Need::KeyValue),
            ("wasi:config/store@0.2.0-rc.1", Need::Config),
            ("wasi:keyvalue/watcher@0.2.0-draft2", Need::Unknown),
            ("wasi:blobstore/container", Need::Unknown),
            ("acme:thing/api@1.0.0", Need::Unknown),
            ("env", Need::Unknown),
            ("", Need::Unknown),
        ] {
            assert_eq!(need(import), wanted, "{import}");
        }
    }
}
