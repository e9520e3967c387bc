//! What is changed of a component before it is compiled.
//!
//! Two things, in each of its core modules: bulk memory instructions are cut into pieces ([`bulk`]), and the memory's
//! first content is taken out, to be mapped rather than copied ([`image`]). To the component's own code nothing is
//! different.

mod bulk;
mod image;

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode, ReencodeComponent, utils};
use wasm_encoder::{
    CodeSection, Component, ComponentSectionId, DataSection, FunctionSection, Instruction, MemorySection, Module,
    ModuleSection, RawSection, TypeSection,
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
    let (mut component, mut modules) = (Component::new(), Modules::default());
    modules.parse_component(&mut component, Parser::new(0), wasm)?;
    Ok(Rewritten { wasm: component.finish(), contents: modules.contents })
}

/// Rewrites the modules of a component, however deep they lie in it, and leaves the rest as it is.
#[derive(Default)]
struct Modules {
    contents: Vec<FirstContent>,
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
        let mut rewriting = Rewriting::of(wasm, self.contents.len())?;
        if rewriting.bulks.is_empty() && rewriting.content.is_none() {
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
    bulks: Vec<Bulk>,
    content: Option<FirstContent>,
}

impl Rewriting {
    /// What is to be done with a module, of which so many before had a content.
    fn of(wasm: &[u8], before: usize) -> Result<Self, Damage> {
        let (mut types, mut functions, mut bulks) = (0, 0, Vec::new());
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
                Payload::CodeSectionEntry(body) => {
                    for bulk in bulk::found_in(&body)? {
                        if !bulks.contains(&bulk) {
                            bulks.push(bulk);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(Self { types, functions, bulks, content: FirstContent::of(wasm, before)? })
    }

    /// The number of the function that does it in pieces.
    fn function(&self, bulk: Bulk) -> u32 {
        let at = self.bulks.iter().position(|held| *held == bulk).expect("all were found before");
        self.functions + count(at)
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
        if bulk::found_in(&body)?.is_empty() {
            // As it is: most are, and to take them apart would only take time.
            code.raw(body.as_bytes());
            return Ok(());
        }
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let mut operators = body.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
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
            if let Some(content) = &self.content {
                memory.maximum = Some(content.mark());
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
