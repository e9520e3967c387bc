//! `firm`: the node, the compile process and the command line in one program.

pub mod cli;
pub mod up;
