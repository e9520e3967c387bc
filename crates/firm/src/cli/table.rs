//! Tables: columns as wide as their widest cell, two spaces between them.

use super::failure::Outcome;
use super::out::{Out, Tone};

/// Rows under a head.
#[derive(Debug)]
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    #[must_use]
    pub(super) fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table, or `empty` where it has no rows.
    pub(super) fn show(&self, out: &Out, empty: &str) -> Outcome {
        if self.rows.is_empty() {
            return out.line(empty);
        }
        let mut lines = self.lines(out).into_iter();
        if let Some(head) = lines.next() {
            out.line(&out.paint(Tone::Strong, &head))?;
        }
        for line in lines {
            out.line(&line)?;
        }
        Ok(())
    }

    fn lines(&self, out: &Out) -> Vec<String> {
        let head = self.head.iter().map(|name| (*name).to_owned()).collect();
        let mut rows: Vec<Vec<String>> = vec![head];
        rows.extend(self.rows.iter().map(|row| row.iter().map(|cell| out.foreign(cell)).collect()));
        let width =
            |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..self.head.len()).map(|column| width(column).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        rows.iter().map(line).collect()
    }
}

/// What stands where there is nothing.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["RELEASE", "BY", "SOURCE"]);
        table.row(["r12".into(), "développeuse".into(), "-".into()]);
        table.row(["r1".into(), "ci".into(), "4f1c2d3+changes".into()]);
        expect![[r"
            RELEASE  BY            SOURCE
            r12      développeuse  -
            r1       ci            4f1c2d3+changes"]]
        .assert_eq(&table.lines(&Out::new(false)).join("\n"));
    }
}
