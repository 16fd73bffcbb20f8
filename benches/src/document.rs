//! Tables in a document, between markers that stay: `<!-- figures: commit -->` … `<!-- end: commit -->`.

use std::path::Path;

use anyhow::{Context, ensure};

use crate::table::Section;

/// Replaces the table of a subject; the rest of the document is not touched.
pub(crate) fn replace(path: &Path, section: &Section, circumstances: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let new = replaced(&text, section, circumstances).with_context(|| path.display().to_string())?;
    std::fs::write(path, new).with_context(|| path.display().to_string())
}

/// How this program was called, for whoever wants to repeat it; not where on this machine.
pub(crate) fn command_line() -> String {
    command_of(std::env::args().skip(1))
}

fn command_of(all: impl IntoIterator<Item = String>) -> String {
    const PATHS: [&str; 3] = ["--write", "--dir", "--program"];
    let mut arguments: Vec<String> = Vec::new();
    let mut all = all.into_iter();
    while let Some(argument) = all.next() {
        let is_path = |name: &&&str| {
            argument.strip_prefix(**name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        match PATHS.iter().find(is_path) {
            Some(name) if argument == **name => drop(all.next()),
            Some(_) => {}
            None => arguments.push(argument),
        }
    }
    // It has a target of its own, which installs what it needs.
    let race = arguments.iter().position(|argument| argument == "race");
    let target = if race.is_some() { "make race" } else { "make bench" };
    if let Some(at) = race {
        arguments.remove(at);
    }
    if arguments.is_empty() {
        target.to_owned()
    } else {
        format!("{target} ARGS=\"{}\"", arguments.join(" "))
    }
}

fn replaced(text: &str, section: &Section, circumstances: &str) -> anyhow::Result<String> {
    let begin = format!("<!-- figures: {} -->\n", section.subject);
    let end = format!("<!-- end: {} -->", section.subject);
    let from = text.find(&begin).map(|at| at + begin.len());
    let to = text.find(&end);
    let (Some(from), Some(to)) = (from, to) else {
        anyhow::bail!("there is no place for these figures: {} and {end} are missing", begin.trim_end())
    };
    ensure!(from <= to, "{end} stands before {}", begin.trim_end());
    Ok(format!("{}{circumstances}\n\n{}{}", &text[..from], section.markdown(), &text[to..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Figure;

    #[test]
    fn the_table_of_one_subject_is_replaced_and_nothing_else() {
        let text = "a\n<!-- figures: disk -->\nold\n<!-- end: disk -->\nb\n<!-- figures: push -->\n<!-- end: push -->\n";
        let section = Section { subject: "disk", figures: vec![Figure::reported("size", "3 MB")] };
        let new = replaced(text, &section, "here, now").expect("there is a place");
        assert_eq!(
            new,
            "a\n<!-- figures: disk -->\nhere, now\n\n| figure | target | measured | |\n|---|---|---|---|\n\
             | size |  | 3 MB |  |\n<!-- end: disk -->\nb\n<!-- figures: push -->\n<!-- end: push -->\n"
        );
        assert_eq!(replaced(&new, &section, "here, now").expect("still"), new);
        assert!(replaced("nothing", &section, "here").is_err());
    }

    #[test]
    fn the_command_is_told_without_paths() {
        let told = |text: &str| command_of(text.split_whitespace().map(str::to_owned));
        assert_eq!(told("--write a.md --dir=/tmp/x"), "make bench");
        assert_eq!(told("failover --kills 3 --write a.md"), "make bench ARGS=\"failover --kills 3\"");
        assert_eq!(told("race --quick"), "make race ARGS=\"--quick\"");
        assert_eq!(told("race polling --seconds 30"), "make race ARGS=\"polling --seconds 30\"");
    }

    #[test]
    fn the_document_has_a_place_for_every_subject() {
        let text = include_str!("../../docs/performance.md");
        let race = crate::Subject::Race(crate::race::Args::default()).parts();
        for subject in crate::Subject::all().into_iter().chain(race) {
            let section = Section { subject: subject.name(), figures: Vec::new() };
            assert!(replaced(text, &section, "").is_ok(), "{}", subject.name());
        }
    }
}
