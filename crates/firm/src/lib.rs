//! `firm`: the node, the box, the compile process and the command line in one program.

mod boxed;
pub mod cli;
mod process;
pub mod up;
