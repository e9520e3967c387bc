//! An instance's memory and tables.

use base::limits::{GUEST_TABLE_ELEMENTS_MAX, INSTANCE_CORES_MAX, INSTANCE_MEMORIES_MAX, INSTANCE_TABLES_MAX};
use wasmtime::{ResourceLimiter, Result};

/// Refuses growth past the cell's bounds. A guest sees `memory.grow` fail, as the standard has it, and mostly
/// aborts; the refusal is remembered so that the trap which follows can be explained.
pub(crate) struct Limiter {
    memory_max: u64,
    memory: u64,
    elements: usize,
    refused: bool,
}

impl Limiter {
    pub(crate) fn new(memory_max: u64) -> Self {
        Self { memory_max, memory: 0, elements: 0, refused: false }
    }

    /// Was memory refused?
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }

    pub(crate) fn memory_max(&self) -> u64 {
        self.memory_max
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let total = self.memory.saturating_add(more);
        if total > self.memory_max {
            self.refused = true;
            return Ok(false);
        }
        self.memory = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        let total = self.elements.saturating_add(desired.saturating_sub(current));
        if total > GUEST_TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        self.elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        INSTANCE_CORES_MAX as usize
    }

    fn tables(&self) -> usize {
        INSTANCE_TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        INSTANCE_MEMORIES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_count_together() {
        let mut limiter = Limiter::new(300);
        assert!(limiter.memory_growing(0, 100, None).is_ok_and(|allowed| allowed));
        assert!(limiter.memory_growing(0, 100, None).is_ok_and(|allowed| allowed));
        assert!(limiter.memory_growing(100, 200, None).is_ok_and(|allowed| allowed));
        assert!(!limiter.refused());
        assert!(limiter.memory_growing(100, 101, None).is_ok_and(|allowed| !allowed));
        assert!(limiter.refused());
    }

    #[test]
    fn tables_count_together() {
        let mut limiter = Limiter::new(0);
        assert!(limiter.table_growing(0, GUEST_TABLE_ELEMENTS_MAX, None).is_ok_and(|allowed| allowed));
        assert!(limiter.table_growing(0, 1, None).is_ok_and(|allowed| !allowed));
    }
}
