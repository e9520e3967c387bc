//! What this machine is made of.

use std::fs;
use std::num::NonZero;
use std::path::Path;

use segment::knock::Hardware;

use crate::process::machine_memory;

/// The kernel's sectors, whatever the disk's own are (`Documentation/block/stat.rst`).
const SECTOR_BYTES: u64 = 512;

pub(super) fn look() -> Hardware {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    Hardware {
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory: machine_memory(),
        disks: disks(Path::new("/sys/block")),
    }
}

/// Bytes of each disk that is a device, the largest first: not what only looks like one (loops, memory), and nothing of
/// no size, such as an empty drive.
fn disks(root: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let mut disks: Vec<u64> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("device").exists())
        .filter_map(|entry| fs::read_to_string(entry.path().join("size")).ok()?.trim().parse::<u64>().ok())
        .map(|sectors| sectors.saturating_mul(SECTOR_BYTES))
        .filter(|bytes| *bytes > 0)
        .collect();
    disks.sort_unstable_by(|one, other| other.cmp(one));
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_devices_of_some_size() {
        let root = tempfile::tempdir().expect("a folder");
        for (name, size, device) in
            [("sda", "2048\n", true), ("nvme0n1", "4096\n", true), ("loop0", "99\n", false), ("sr0", "0\n", true)]
        {
            let disk = root.path().join(name);
            fs::create_dir_all(disk.join(if device { "device" } else { "queue" })).expect("made");
            fs::write(disk.join("size"), size).expect("written");
        }
        assert_eq!(disks(root.path()), [4096 * 512, 2048 * 512]);
        assert_eq!(disks(Path::new("/nowhere")), Vec::<u64>::new());
    }
}
