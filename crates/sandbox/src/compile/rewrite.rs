//! What is changed of a component before it is compiled.
//!
//! Three things, in each of its core modules: bulk memory instructions are cut into pieces ([`bulk`]), long runs of
//! instructions without a loop are broken by loops that go round once, and the memory's first content is taken out, to be
//! mapped rather than copied ([`image`]). To the component's own code nothing is different.

mod bulk;
mod image;

use std::collections::BTreeSet;
use std::convert::Infallible;

use base::limits::{GUEST_CONTENT_SLACK_BYTES, GUEST_STRAIGHT_OPERATORS_MAX};
use wasm_encoder::reencode::{Error, Reencode, ReencodeComponent, utils};
use wasm_encoder::{
    BlockType, CodeSection, Component, ComponentSectionId, DataSection, FunctionSection, Instruction, MemorySection,
    Module, ModuleSection, RawSection, TypeSection,
};
use wasmparser::{
    CodeSectionReader, Data, FunctionBody, FunctionSectionReader, MemorySectionReader, Parser, Payload, TypeRef,
    TypeSectionReader, Validator, WasmFeatures,
};

use bulk::Bulk;
pub(super) use image::FirstContent;
pub(crate) use image::{PAGE_BYTES, marked};

/// Why a part of it can't be changed: it is damaged.
type Damage = Error<Infallible>;

/// Why a component can't be changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RewriteError {
    #[error("it is cut off")]
    CutOff,
    #[error("it is damaged: {0}")]
    Damaged(#[from] Damage),
}

/// A component, changed.
pub(super) struct Rewritten {
    pub(super) wasm: Vec<u8>,
    /// What its memories hold at first.
    pub(super) contents: Vec<FirstContent>,
}

pub(super) fn rewrite(wasm: &[u8]) -> Result<Rewritten, RewriteError> {
    // What takes it apart expects that it is whole.
    Validator::new_with_features(WasmFeatures::all()).validate_all(wasm).map_err(Damage::from)?;
    for payload in Parser::new(0).parse_all(wasm) {
        // To the validator a part that ends with the file is whole, whatever length was announced.
        if let Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } =
            payload.map_err(Damage::from)?
            && unchecked_range.end > wasm.len()
        {
            return Err(RewriteError::CutOff);
        }
    }
    let (mut component, mut modules) =
        (Component::new(), Modules { contents: Vec::new(), slack: GUEST_CONTENT_SLACK_BYTES });
    modules.parse_component(&mut component, Parser::new(0), wasm)?;
    Ok(Rewritten { wasm: component.finish(), contents: modules.contents })
}

/// Rewrites the modules of a component, however deep they lie in it, and leaves the rest as it is.
struct Modules {
    contents: Vec<FirstContent>,
    /// Bytes that its contents may still have for nothing.
    slack: u64,
}

impl Reencode for Modules {
    type Error = Infallible;
}

impl ReencodeComponent for Modules {
    fn parse_component_submodule(
        &mut self,
        component: &mut Component,
        _parser: Parser,
        wasm: &[u8],
    ) -> Result<(), Damage> {
        let mut rewriting = Rewriting::of(wasm, self.contents.len(), &mut self.slack)?;
        if !rewriting.changes() {
            component.section(&RawSection { id: ComponentSectionId::CoreModule.into(), data: wasm });
            return Ok(());
        }
        let mut module = Module::new();
        rewriting.parse_core_module(&mut module, Parser::new(0), wasm)?;
        component.section(&ModuleSection(&module));
        self.contents.extend(rewriting.content);
        Ok(())
    }
}

/// A module that is rewritten. The functions that take the place of its bulk instructions follow its own, so that none of
/// those gets another number.
struct Rewriting {
    types: u32,
    functions: u32,
    /// Sorted.
    bulks: Vec<Bulk>,
    content: Option<FirstContent>,
    /// A memory could be taken for one whose content was taken out.
    mistakable: bool,
    /// A function has many instructions.
    long: bool,
}

impl Rewriting {
    /// What is to be done with a module, of which so many before had a content.
    fn of(wasm: &[u8], before: usize, slack: &mut u64) -> Result<Self, Damage> {
        let (mut types, mut functions, mut bulks) = (0, 0, BTreeSet::new());
        let (mut mistakable, mut long) = (false, false);
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::TypeSection(section) => {
                    for group in section {
                        types += count(group?.types().len());
                    }
                }
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        functions += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                    }
                }
                Payload::FunctionSection(section) => functions += section.count(),
                Payload::MemorySection(section) => {
                    for memory in section {
                        mistakable |= image::is_mistakable(&memory?);
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    let found = Found::in_body(&body)?;
                    long |= found.is_long();
                    bulks.extend(found.bulks);
                }
                _ => {}
            }
        }
        let content = FirstContent::of(wasm, before, slack)?;
        Ok(Self { types, functions, bulks: bulks.into_iter().collect(), content, mistakable, long })
    }

    fn changes(&self) -> bool {
        !self.bulks.is_empty() || self.content.is_some() || self.mistakable || self.long
    }

    /// The number of the function that does it in pieces.
    fn function(&self, bulk: Bulk) -> u32 {
        self.functions + count(self.bulks.binary_search(&bulk).expect("all were found before"))
    }
}

/// What is to be changed of a function.
struct Found {
    bulks: Vec<Bulk>,
    operators: usize,
}

impl Found {
    fn in_body(body: &FunctionBody<'_>) -> Result<Self, Damage> {
        let (mut bulks, mut count) = (Vec::new(), 0);
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            bulks.extend(Bulk::of(&operators.read()?));
            count += 1;
        }
        Ok(Self { bulks, operators: count })
    }

    /// A guest is interrupted where a function or a loop begins. So many instructions in between may each touch a page that
    /// the kernel has yet to give.
    fn is_long(&self) -> bool {
        self.operators > GUEST_STRAIGHT_OPERATORS_MAX
    }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).expect("a component has fewer bytes")
}

impl Reencode for Rewriting {
    type Error = Infallible;

    fn parse_type_section(&mut self, types: &mut TypeSection, section: TypeSectionReader<'_>) -> Result<(), Damage> {
        utils::parse_type_section(self, types, section)?;
        if !self.bulks.is_empty() {
            types.ty().function(bulk::OPERANDS, []);
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), Damage> {
        utils::parse_function_section(self, functions, section)?;
        for _ in &self.bulks {
            functions.function(self.types);
        }
        Ok(())
    }

    fn parse_code_section(&mut self, code: &mut CodeSection, section: CodeSectionReader<'_>) -> Result<(), Damage> {
        utils::parse_code_section(self, code, section)?;
        for bulk in &self.bulks {
            code.function(&bulk.in_a_loop());
        }
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Damage> {
        let found = Found::in_body(&body)?;
        if found.bulks.is_empty() && !found.is_long() {
            // As it is: most are, and to take them apart would only take time.
            code.raw(body.as_bytes());
            return Ok(());
        }
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let (mut operators, mut straight) = (body.get_operators_reader()?, 0);
        while !operators.eof() {
            let operator = operators.read()?;
            if straight == GUEST_STRAIGHT_OPERATORS_MAX {
                function.instruction(&Instruction::Loop(BlockType::Empty)).instruction(&Instruction::End);
                straight = 0;
            }
            straight += 1;
            match Bulk::of(&operator) {
                Some(bulk) => function.instruction(&Instruction::Call(self.function(bulk))),
                None => function.instruction(&self.instruction(operator)?),
            };
        }
        code.function(&function);
        Ok(())
    }

    fn parse_memory_section(
        &mut self,
        memories: &mut MemorySection,
        section: MemorySectionReader<'_>,
    ) -> Result<(), Damage> {
        for memory in section {
            let mut memory = self.memory_type(memory?)?;
            match &self.content {
                Some(content) => memory.maximum = Some(content.mark()),
                None => memory.maximum = memory.maximum.map(|maximum| image::unmistakable(memory.minimum, maximum)),
            }
            memories.memory(memory);
        }
        Ok(())
    }

    fn parse_data(&mut self, data: &mut DataSection, segment: Data<'_>) -> Result<(), Damage> {
        if self.content.is_some() && image::is_active(&segment) {
            // An active segment is empty once it was copied, and so is one that never was: the others keep their numbers.
            data.passive([]);
            return Ok(());
        }
        utils::parse_data(self, data, segment)
    }
}
