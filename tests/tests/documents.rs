//! What the documentation names exists.
//!
//! Owns five checks: every error code has its page and every page its code, every link between pages leads
//! somewhere, the plant of the README is one, the configuration page has the keys that are read and no others, and every
//! source file says in its first line what it owns. It does not judge what the pages say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use model::plant::document::{Bundle, read_bundle};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file below `folder` whose name ends in `ending`, hidden folders left out.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Source files of the crates, the scenarios and the benches.
fn sources() -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for folder in ["crates", "tests", "benches"] {
        all.extend(files(&root().join(folder), ".rs")?);
    }
    ensure!(all.len() > 10, "expected the sources of the workspace, saw {} files", all.len());
    Ok(all)
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Error codes in `text`: `HF-` and four digits.
fn codes(text: &str) -> BTreeSet<String> {
    let digits = |rest: &str| {
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        (number.len() == 4).then(|| format!("HF-{number}"))
    };
    text.match_indices("HF-").filter_map(|(at, mark)| digits(&text[at + mark.len()..])).collect()
}

/// Targets of the links in a page, `[text](target)`, those to the web and within the page left out. What stands in
/// a code block is no link.
fn links(page: &str) -> Vec<String> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for (at, mark) in line.match_indices("](") {
            let target: String = line[at + mark.len()..].chars().take_while(|c| *c != ')').collect();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") {
                found.push(file.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_error_code_has_a_page_and_every_page_a_code() -> Result<()> {
    let mut used = BTreeMap::new();
    for path in sources()? {
        // This file speaks of codes that nobody prints.
        if path.ends_with("tests/documents.rs") {
            continue;
        }
        for code in codes(&read(&path)?) {
            used.entry(code).or_insert(path.clone());
        }
    }
    let mut pages = BTreeSet::new();
    for path in files(&root().join("docs/errors"), ".md")? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name != "README" {
            ensure!(codes(&name).contains(&name), "docs/errors/{name}.md is not named after a code");
            pages.insert(name);
        }
    }
    for (code, path) in &used {
        ensure!(pages.contains(code), "{code} in {} has no page docs/errors/{code}.md", path.display());
    }
    for page in &pages {
        ensure!(used.contains_key(page), "docs/errors/{page}.md explains a code that no source names");
    }
    Ok(())
}

#[test]
fn every_link_between_pages_leads_to_a_file() -> Result<()> {
    let mut count = 0;
    for page in files(&root(), ".md")? {
        for link in links(&read(&page)?) {
            let target = page.parent().unwrap_or(&page).join(&link);
            ensure!(target.exists(), "{} links to {link}, which does not exist", page.display());
            count += 1;
        }
    }
    ensure!(count > 0, "no page links to another: is this looking in the right place?");
    Ok(())
}

#[test]
fn the_plant_in_the_readme_is_valid_as_it_stands() -> Result<()> {
    let readme = read(&root().join("README.md"))?;
    let (_, rest) = readme.split_once("```toml\n").context("the README shows no plant")?;
    let (plant, _) = rest.split_once("```").context("the README's plant has no end")?;
    let read = read_bundle(&Bundle::of_document(plant)).map_err(|errors| anyhow!("{errors}"))?;
    ensure!(read.warnings.is_empty(), "the README's plant has warnings:\n{}", read.warnings);
    Ok(())
}

/// Tables of a plant document, each with a key that nobody reads, and the headings under which `docs/configuration.md`
/// explains those that are read.
const TABLES: [(&str, &[&str]); 12] = [
    ("'?' = 1", &["Plant document"]),
    ("[cluster]\n'?' = 1", &["Cluster"]),
    ("[retention]\n'?' = 1", &["Retention"]),
    ("[defaults]\n'?' = 1", &["Connection", "Schedule"]),
    ("[[template]]\n'?' = 1", &["Device", "Connection", "Schedule"]),
    ("[[device]]\n'?' = 1", &["Device", "Connection", "Schedule"]),
    ("[[device]]\ngroup = [{ '?' = 1 }]", &["Group", "Schedule"]),
    ("[[device]]\ntag = [{ '?' = 1 }]", &["Tag"]),
    ("[[destination]]\nkind = 'http'\n'?' = 1", &["Destination", "HTTP"]),
    ("[[destination]]\nkind = 'http'\ntoken = { '?' = 1 }", &["Token"]),
    ("[[destination]]\nkind = 'csv'\n'?' = 1", &["Destination", "CSV"]),
    ("[[destination]]\nroute = [{ '?' = 1 }]", &["Route"]),
];

/// The keys that are read in the table of `document` that holds one which is not: the complaint about that names them.
fn plant_keys(document: &str) -> Result<BTreeSet<String>> {
    let read = read_bundle(&Bundle::of_document(document));
    let errors = read.err().with_context(|| format!("{document:?} was taken for a plant"))?;
    let complaint = errors.list.iter().find(|found| found.message == "unknown key \"?\"");
    let help = complaint.and_then(|found| found.help.as_deref());
    let keys = help.and_then(|help| help.strip_prefix("expected one of "));
    let keys = keys.with_context(|| format!("nobody says which keys {document:?} may have:\n{errors}"))?;
    Ok(keys.split(", ").map(str::to_owned).collect())
}

/// The keys of the node file with their tables, from the list of those that have a variable, and its tables.
fn node_keys() -> Result<BTreeSet<String>> {
    let source = read(&root().join("crates/gateway/src/config/environment.rs"))?;
    let (_, list) = source.split_once("const KEYS").context("the node file's keys are listed elsewhere")?;
    let (list, _) = list.split_once("];").context("the list of the node file's keys has no end")?;
    let mut keys: BTreeSet<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    ensure!(keys.len() > 10, "expected the keys of the node file, saw {keys:?}");
    let tables = keys.iter().filter_map(|key| key.split_once('.')).map(|(table, _)| table.to_owned());
    let tables: Vec<String> = tables.collect();
    keys.extend(tables);
    // Their keys are the author's own.
    keys.extend(["dial", "vars"].map(str::to_owned));
    Ok(keys)
}

/// The keys that a page explains by heading: what is code in the first cell of a row.
fn explained_keys(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut heading = "";
    for line in page.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim();
        } else if line.starts_with("| `") {
            let cell = line.split(" | ").next().unwrap_or_default();
            let keys = cell.split('`').skip(1).step_by(2).map(str::to_owned);
            found.entry(heading.to_owned()).or_default().extend(keys);
        }
    }
    found
}

#[test]
fn the_configuration_page_explains_every_key_that_is_read_and_no_other() -> Result<()> {
    let explained = explained_keys(&read(&root().join("docs/configuration.md"))?);
    let node_file: &[&str] = &["Node file"];
    let mut tables = vec![(node_file, node_keys()?)];
    for (document, headings) in TABLES {
        tables.push((headings, plant_keys(document)?));
    }
    for (headings, known) in &tables {
        let rows = headings.iter().filter_map(|heading| explained.get(*heading));
        let shown: BTreeSet<String> = rows.flatten().cloned().collect();
        let (missing, unknown) = (known - &shown, &shown - known);
        ensure!(
            missing.is_empty() && unknown.is_empty(),
            "docs/configuration.md, {headings:?}: does not explain {missing:?}, explains {unknown:?}, which nobody reads"
        );
    }
    for heading in explained.keys() {
        let is_known = tables.iter().any(|(headings, _)| headings.contains(&heading.as_str()));
        ensure!(is_known, "docs/configuration.md explains keys under {heading:?}, which is no table");
    }
    Ok(())
}

#[test]
fn every_source_file_says_first_what_it_owns() -> Result<()> {
    let silent: Vec<_> = sources()?
        .into_iter()
        .map(|path| read(&path).map(|text| (path, text)))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        // The tests of one file, moved beside it, belong to that file.
        .filter(|(path, text)| !path.ends_with("tests.rs") && !text.starts_with("//! "))
        .map(|(path, _)| path.display().to_string())
        .collect();
    ensure!(
        silent.is_empty(),
        "files without a first line that says what they own:\n  {}",
        silent.join("\n  ")
    );
    Ok(())
}

#[test]
fn codes_and_links_are_found_where_they_stand() {
    let text = "fails with HF-0042, see HF-7; not HF-12345.";
    assert_eq!(codes(text), BTreeSet::from(["HF-0042".to_owned()]));
    let page = "see [a](docs/a.md#part) and [b](https://example.org) and [c](#here)\n```\n[d](d.md)\n```\n[e](../e.md)";
    assert_eq!(links(page), ["docs/a.md", "../e.md"]);
}
