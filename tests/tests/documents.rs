//! What the documentation names exists.
//!
//! Owns four checks: every error code has its page and every page its code, every link between pages leads
//! somewhere, the plant of the README is one, and every source file says in its first line what it owns. It does not
//! judge what the pages say.

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
