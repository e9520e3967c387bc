//! `firm`: the node, the box, the compile process, the lab and the command line in one program.

mod boxed;
pub mod cli;
pub mod lab;
mod process;
pub mod up;
