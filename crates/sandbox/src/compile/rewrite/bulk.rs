//! Bulk memory instructions, cut into pieces.
//!
//! A guest that computes is interrupted at the next tick, but wasmtime looks for one before `memory.fill`, `memory.copy`
//! and `memory.init` only, not within: one that moves a gibibyte kept its core for a third of a second, and everybody on
//! it. So before a component is compiled, each of these instructions becomes a call of a function that moves
//! [`GUEST_BULK_PIECE_BYTES`] at a time, and a loop looks for the tick each time around.
//!
//! An instruction that reaches beyond its memory traps, as it did; what it wrote before that is nobody's business, since a
//! trap is the end of the instance.

use base::limits::GUEST_BULK_PIECE_BYTES;
use wasm_encoder::{BlockType, Function, Instruction, ValType};
use wasmparser::Operator;

/// An instruction that moves as many bytes as its operands say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bulk {
    Fill,
    Copy,
    /// From this segment.
    Init(u32),
}

impl Bulk {
    pub(super) fn of(operator: &Operator<'_>) -> Option<Self> {
        match operator {
            Operator::MemoryFill { mem: 0 } => Some(Self::Fill),
            Operator::MemoryCopy { dst_mem: 0, src_mem: 0 } => Some(Self::Copy),
            Operator::MemoryInit { mem: 0, data_index } => Some(Self::Init(*data_index)),
            _ => None,
        }
    }

    fn instruction(self) -> Instruction<'static> {
        match self {
            Self::Fill => Instruction::MemoryFill(0),
            Self::Copy => Instruction::MemoryCopy { src_mem: 0, dst_mem: 0 },
            Self::Init(data_index) => Instruction::MemoryInit { mem: 0, data_index },
        }
    }
}

/// Where to, what or from where, and how many bytes.
pub(super) const OPERANDS: [ValType; 3] = [ValType::I32; 3];
const TO: u32 = 0;
const FROM: u32 = 1;
const LEFT: u32 = 2;

impl Bulk {
    /// A function of the same operands that does it in pieces.
    pub(super) fn in_a_loop(self) -> Function {
        let mut function = Function::new([]);
        let piece = Instruction::I32Const(i32::try_from(GUEST_BULK_PIECE_BYTES).expect("a piece is small"));
        let mut put = |instructions: &[Instruction<'_>]| {
            for instruction in instructions {
                function.instruction(instruction);
            }
        };
        // Nearly always it is a piece or less.
        put(&[Instruction::LocalGet(LEFT), piece.clone(), Instruction::I32LeU, Instruction::If(BlockType::Empty)]);
        put(&[Instruction::LocalGet(TO), Instruction::LocalGet(FROM), Instruction::LocalGet(LEFT)]);
        put(&[self.instruction(), Instruction::Return, Instruction::End]);
        if self == Self::Copy {
            // Where it may overlap, the end goes first: no piece is written over before it was read.
            put(&[Instruction::LocalGet(TO), Instruction::LocalGet(FROM), Instruction::I32GtU]);
            put(&[Instruction::If(BlockType::Empty), Instruction::Loop(BlockType::Empty)]);
            put(&[Instruction::LocalGet(LEFT), piece.clone(), Instruction::I32Sub, Instruction::LocalTee(LEFT)]);
            put(&[
                Instruction::LocalGet(TO),
                Instruction::I32Add,
                Instruction::LocalGet(FROM),
                Instruction::LocalGet(LEFT),
            ]);
            put(&[Instruction::I32Add, piece.clone(), self.instruction()]);
            put(&[
                Instruction::LocalGet(LEFT),
                piece.clone(),
                Instruction::I32GtU,
                Instruction::BrIf(0),
                Instruction::End,
            ]);
            put(&[Instruction::LocalGet(TO), Instruction::LocalGet(FROM), Instruction::LocalGet(LEFT)]);
            put(&[self.instruction(), Instruction::Return, Instruction::End]);
        }
        put(&[Instruction::Loop(BlockType::Empty)]);
        put(&[Instruction::LocalGet(TO), Instruction::LocalGet(FROM), piece.clone(), self.instruction()]);
        put(&[Instruction::LocalGet(TO), piece.clone(), Instruction::I32Add, Instruction::LocalSet(TO)]);
        if self != Self::Fill {
            put(&[Instruction::LocalGet(FROM), piece.clone(), Instruction::I32Add, Instruction::LocalSet(FROM)]);
        }
        put(&[Instruction::LocalGet(LEFT), piece.clone(), Instruction::I32Sub, Instruction::LocalTee(LEFT)]);
        put(&[piece, Instruction::I32GtU, Instruction::BrIf(0), Instruction::End]);
        put(&[Instruction::LocalGet(TO), Instruction::LocalGet(FROM), Instruction::LocalGet(LEFT), self.instruction()]);
        put(&[Instruction::End]);
        function
    }
}

#[cfg(test)]
mod tests;
