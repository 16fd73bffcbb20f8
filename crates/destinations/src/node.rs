//! What differs per box: variables, the data directory, secrets.
//!
//! - A secret is read from where it lies and never logged, stored or shown.
//! - Reading one may touch a disk: [`NodeFacts::read_secret`] is called on threads for blocking work only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use model::plant::Secret;

use crate::destination::DeliverError;

/// More than any token; keeps a wrong path (a device, a log file) from filling the memory.
const LONGEST_SECRET: u64 = 64 << 10;

/// What this node knows that the plant document leaves open.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    /// The node's name.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// Secrets with a relative path lie below it.
    pub data_dir: PathBuf,
    /// Values for `${var.…}`.
    pub vars: BTreeMap<String, String>,
}

impl NodeFacts {
    /// Fills in every `${var.NAME}` of a text.
    pub(crate) fn fill_in(&self, text: &str) -> Result<String, DeliverError> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            filled.push_str(&rest[..start]);
            let reference = &rest[start + 2..];
            let end = reference
                .find('}')
                .ok_or_else(|| DeliverError::misconfigured(format!("`${{` without `}}` in {text:?}")))?;
            let value = reference[..end]
                .strip_prefix("var.")
                .and_then(|name| self.vars.get(name))
                .ok_or_else(|| {
                    DeliverError::misconfigured(format!(
                        "`${{{}}}` has no value on node {}: set it under [vars] in its node file",
                        &reference[..end],
                        self.name
                    ))
                })?;
            filled.push_str(value);
            rest = &reference[end + 1..];
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// Reads a secret, without the white space around it. Blocks.
    pub(crate) fn read_secret(&self, secret: &Secret) -> Result<String, DeliverError> {
        let (place, text) = match secret {
            Secret::Env(name) => {
                let place = format!("environment variable {name}");
                let text = std::env::var(name)
                    .map_err(|error| DeliverError::misconfigured(format!("{place}: {error}")))?;
                (place, text)
            }
            Secret::File(path) => {
                let path = self.data_dir.join(path);
                let place = path.display().to_string();
                let text = read_small_file(&path)
                    .map_err(|error| DeliverError::misconfigured(format!("secret file {place}: {error}")))?;
                (place, text)
            }
        };
        match text.trim() {
            "" => Err(DeliverError::misconfigured(format!("the secret in {place} is empty"))),
            secret => Ok(secret.to_owned()),
        }
    }
}

fn read_small_file(path: &std::path::Path) -> std::io::Result<String> {
    // A pipe or device would keep the reader waiting for ever.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    File::open(path)?.take(LONGEST_SECRET + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST_SECRET {
        return Err(std::io::Error::other(format!("longer than {LONGEST_SECRET} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeFacts {
        NodeFacts {
            name: "gateway-a".into(),
            vars: BTreeMap::from([("csv-dir".into(), "/mnt/reports".into())]),
            ..NodeFacts::default()
        }
    }

    #[test]
    fn variables_are_filled_in_and_unknown_ones_named() {
        assert_eq!(node().fill_in("${var.csv-dir}/line-2").as_deref(), Ok("/mnt/reports/line-2"));
        assert_eq!(node().fill_in("plain").as_deref(), Ok("plain"));
        let error = node().fill_in("${var.other}/x").expect_err("no such variable").to_string();
        assert!(error.contains("${var.other}") && error.contains("gateway-a"), "{error}");
        assert!(node().fill_in("${var.csv-dir").is_err());
    }

    #[test]
    fn a_secret_file_lies_below_the_data_directory_and_loses_its_line_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = NodeFacts { data_dir: folder.path().into(), ..node() };
        let secret = Secret::File("token".into());
        assert!(node.read_secret(&secret).is_err(), "there is no such file");
        std::fs::write(folder.path().join("token"), "s3cret\n").expect("written");
        assert_eq!(node.read_secret(&secret).as_deref(), Ok("s3cret"));
        std::fs::write(folder.path().join("token"), "\n").expect("written");
        assert!(node.read_secret(&secret).expect_err("empty").to_string().contains("empty"));
        assert!(node.read_secret(&Secret::File(".".into())).is_err(), "a folder is no secret");
    }
}
