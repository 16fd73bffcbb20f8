//! The mutants: each is asked for in one place, has one row, and is in no program that is shipped.
//!
//! - The table is `tests/src/prove/mutants.rs`. It is read as text, as the places in the sources are.
//! - Whether the tests that it names fail with their mutants is for `make prove-mutants` to find out; here only, whether
//!   there are such tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const TABLE: &str = "tests/src/prove/mutants.rs";
const SCRIPTS: &str = "crates/store/tests/scripts";
/// In the sources, before a name.
const ASKED: &str = "runtime::mutant(\"";
/// At least so many.
const ENOUGH: usize = 20;
/// A text of the table that is as long as this, and could be a path, is the name of a test.
const SHORTEST_TEST: usize = 20;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The sources below `folder`.
fn sources(folder: &Path) -> Result<Vec<String>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(read(&path)?);
            }
        }
    }
    Ok(found)
}

/// The texts between quotes that follow `before` in `source`, one that goes on in the next line made whole.
fn texts(source: &str, before: &str) -> Vec<String> {
    let whole = |text: &str| text.split("\\\n").map(str::trim_start).collect::<String>();
    let found = source.split(before).skip(1).filter_map(|rest| rest.split('"').next());
    found.map(whole).collect()
}

/// These, each once; an error if one is there twice.
fn each_once(names: Vec<String>, what: &str) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    for name in names {
        ensure!(seen.insert(name.clone()), "{name} is {what} twice");
    }
    Ok(seen)
}

fn table() -> Result<BTreeSet<String>> {
    each_once(texts(&read(&root().join(TABLE))?, "name: \""), "in the table")
}

#[test]
fn every_mutant_is_asked_for_in_one_place_and_has_one_row() -> Result<()> {
    let code = sources(&root().join("crates"))?;
    let places = code.iter().flat_map(|source| texts(source, ASKED)).collect();
    let (places, rows) = (each_once(places, "asked for")?, table()?);
    let (unknown, unused) = (&places - &rows, &rows - &places);
    ensure!(
        unknown.is_empty() && unused.is_empty(),
        "without a row in {TABLE}: {unknown:?}; in it, but asked for nowhere: {unused:?}"
    );
    ensure!(rows.len() >= ENOUGH, "expected {ENOUGH} mutants, found {}", rows.len());
    Ok(())
}

#[test]
fn every_test_that_must_kill_a_mutant_exists() -> Result<()> {
    let table = read(&root().join(TABLE))?;
    let code = sources(&root().join("crates"))?.concat();
    let is_path = |text: &String| {
        let of_a_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | ':');
        text.len() >= SHORTEST_TEST && text.chars().all(of_a_path)
    };
    let tests: BTreeSet<String> = texts(&table, "\"").into_iter().filter(is_path).collect();
    for test in &tests {
        let name = test.rsplit("::").next().unwrap_or_default();
        let is_script = root().join(SCRIPTS).join(format!("{name}.txt")).exists();
        ensure!(is_script || code.contains(&format!("fn {name}(")), "there is no test {test}");
    }
    ensure!(tests.len() >= ENOUGH, "expected the names of {ENOUGH} tests, found {}", tests.len());
    Ok(())
}

#[cfg(not(mutants))]
#[test]
fn no_mutant_is_in_the_program() -> Result<()> {
    let names = table()?;
    let program = std::fs::read(holdfast_tests::said::program()?)?;
    let may_be_name = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'-';
    for run in program.split(|byte| !may_be_name(byte)) {
        let text = str::from_utf8(run).unwrap_or_default();
        let found = names.iter().find(|name| text.len() >= name.len() && text.contains(name.as_str()));
        ensure!(found.is_none(), "the program has a mutant: {found:?}");
    }
    Ok(())
}

#[test]
fn texts_are_read_as_the_compiler_reads_them() {
    let source = "name: \"one\",\n breaks: \"x\",\n name: \"tw\\\n    o::three\" }";
    assert_eq!(texts(source, "name: \""), ["one", "two::three"]);
}
