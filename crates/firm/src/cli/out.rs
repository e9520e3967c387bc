//! The command line's mouth and ear: the only place that writes to the terminal or asks a question.
//!
//! Standard output carries the answer and nothing else: with `--json` exactly one object or array. Progress,
//! questions, warnings and errors go to standard error. Colour and bars exist on a terminal only.

use std::io::{self, BufRead, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::Serialize;

use super::exit::Exit;
use super::failure::{Failure, Outcome};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const GREEN: Style = AnsiColor::Green.on_default();

/// How a piece of text is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Strong,
    Quiet,
    Good,
    Odd,
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Strong => BOLD,
            Self::Quiet => DIM,
            Self::Good => GREEN,
            Self::Odd => YELLOW,
            Self::Bad => RED,
        }
    }
}

/// Where answers go, and how.
#[derive(Clone, Debug)]
pub struct Out {
    json: bool,
    colour: bool,
    colour_errors: bool,
}

impl Out {
    #[must_use]
    pub fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { json, colour: wanted && io::stdout().is_terminal(), colour_errors: wanted && io::stderr().is_terminal() }
    }

    /// Is the answer for a script?
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// May there be progress bars and questions?
    #[must_use]
    pub fn is_interactive(&self) -> bool {
        !self.json && io::stderr().is_terminal()
    }

    /// The answer: as JSON where that is asked for, else as `text` says it.
    pub fn answer(&self, value: &impl Serialize, text: impl FnOnce(&Self) -> Outcome) -> Outcome {
        if self.json { self.json(value) } else { text(self) }
    }

    /// One line of JSON.
    pub fn json(&self, value: &impl Serialize) -> Outcome {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::new(Exit::Refused, format!("the answer can't be written as JSON: {error}")))?;
        self.line(&text)
    }

    /// A line to standard output.
    pub fn line(&self, text: &str) -> Outcome {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        Ok(stdout.flush()?)
    }

    /// A line to standard error. It has no reader to fail for.
    pub fn note(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// What is likely not meant.
    pub fn warn(&self, text: &str) {
        self.note(&format!("{}: {text}", paint(self.colour_errors, Tone::Odd, "warning")));
    }

    /// Says how a command failed.
    pub fn fail(&self, failure: &Failure) {
        let text =
            if self.json { failure.json() } else { failure.text(&paint(self.colour_errors, Tone::Bad, "error")) };
        if let Some(text) = text {
            self.note(&text);
        }
    }

    /// `text` in colour, where there is any on standard output.
    #[must_use]
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        paint(self.colour, tone, text)
    }

    /// Text that somebody else wrote, which must not steer the terminal.
    #[must_use]
    pub fn foreign(&self, text: &str) -> String {
        if io::stdout().is_terminal() { harmless(text) } else { text.to_owned() }
    }

    /// Asks before something that can't be undone. Without a terminal there is nobody to ask: say `--yes`.
    pub fn confirm(&self, question: &str, yes: bool) -> Outcome {
        if yes {
            return Ok(());
        }
        if self.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(Failure::usage(format!("`{question}` needs an answer, and there is no terminal to ask on"))
                .help("add --yes, if that is what you want"));
        }
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question} [y/N] ")?;
        stderr.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::new(Exit::Refused, "nothing was changed: the answer was no")),
        }
    }

    /// Asks for a secret, which is not shown while it is typed.
    pub fn ask_secret(&self, question: &str) -> Outcome<String> {
        if self.json || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(
                Failure::usage("there is no terminal to ask for a secret on").help("pipe it in, and add --stdin")
            );
        }
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question}: ")?;
        stderr.flush()?;
        let secret = Silence::begin().and_then(|_silence| typed_line());
        writeln!(stderr)?;
        secret.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => Failure::new(Exit::Interrupted, "interrupted; nothing was changed"),
            _ => error.into(),
        })
    }
}

fn paint(colour: bool, tone: Tone, text: &str) -> String {
    if !colour || tone == Tone::Plain {
        return text.to_owned();
    }
    let style = tone.style();
    format!("{}{text}{}", style.render(), style.render_reset())
}

/// Control characters written out. Tabs stay.
fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for ch in text.chars() {
        if ch.is_control() && ch != '\t' { safe.extend(ch.escape_default()) } else { safe.push(ch) }
    }
    safe
}

/// Standard input without echo, until it is dropped. Signals are off too: a Ctrl-C that ended the process here
/// would leave the terminal mute, so it is read as the character that it is.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // If this fails the terminal is gone, and with it whoever could be told.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// A line from a silenced terminal, where the control keys come as characters.
fn typed_line() -> io::Result<String> {
    const INTERRUPT: u8 = 3;
    const END: u8 = 4;
    const BACKSPACES: [u8; 2] = [8, 127];
    let mut typed = Vec::new();
    loop {
        let mut byte = [0];
        if rustix::io::read(io::stdin(), &mut byte)? == 0 {
            break;
        }
        match byte[0] {
            b'\n' | b'\r' | END => break,
            INTERRUPT => return Err(io::ErrorKind::Interrupted.into()),
            byte if BACKSPACES.contains(&byte) => {
                // One character, not one byte of it.
                while typed.pop().is_some_and(|byte| (0x80..0xc0).contains(&byte)) {}
            }
            byte => typed.push(byte),
        }
    }
    String::from_utf8(typed).map_err(|_| io::Error::other("what was typed is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_can_t_steer_the_terminal() {
        assert_eq!(harmless("a\tb \u{1b}[2J\u{9b}x é"), "a\tb \\u{1b}[2J\\u{9b}x é");
    }

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        assert_eq!(paint(false, Tone::Bad, "error"), "error");
        assert_ne!(paint(true, Tone::Bad, "error"), "error");
        assert_eq!(paint(true, Tone::Plain, "error"), "error");
    }
}
