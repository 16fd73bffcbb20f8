//! Plant documents on this machine: from a path to a bundle, and back to files.
//!
//! - A bundle is `plant.toml` and the files it names, relative to its folder.
//! - A file that is named and missing is left out: reading the bundle says where it is named.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use model::plant::document::{Bundle, references};
use wire::proto::v1 as pb;

use super::error::CliError;

/// What the files of a bundle are called where they were read.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The document; absent for one that was not read from a file.
    document: Option<PathBuf>,
}

impl Names {
    /// Of the document at `path`.
    pub(super) fn of(path: &Path) -> Self {
        Self { document: Some(document_at(path)) }
    }

    /// The name of a file of the bundle.
    pub(super) fn name(&self, in_bundle: &str) -> String {
        let Some(document) = &self.document else { return in_bundle.to_owned() };
        match in_bundle {
            Bundle::ROOT => document.display().to_string(),
            other => document.with_file_name(other).display().to_string(),
        }
    }
}

fn document_at(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(Bundle::ROOT) } else { path.to_owned() }
}

/// The bundle of the document at `path`: a file, or a folder with a `plant.toml` in it.
pub(super) fn load(path: &Path) -> Result<Bundle, CliError> {
    let document = document_at(path);
    let bytes = fs::read(&document).map_err(|error| failed(&document, &error))?;
    let folder = document.parent().map_or_else(PathBuf::new, Path::to_owned);
    let named = references(&String::from_utf8_lossy(&bytes));
    let mut bundle = Bundle::of_document(bytes);
    for name in named {
        let path = folder.join(&name);
        match fs::read(&path) {
            Ok(bytes) => {
                let refused = |error: model::plant::document::BundleError| CliError::File {
                    path: path.clone(),
                    reason: error.to_string(),
                };
                bundle.insert(&name, bytes).map_err(refused)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    Ok(bundle)
}

/// A bundle for a message.
pub(super) fn to_messages(bundle: &Bundle) -> Vec<pb::ConfigFile> {
    let file = |(name, bytes): (&str, &[u8])| pb::ConfigFile {
        name: name.to_owned(),
        content: bytes.to_vec().into(),
    };
    bundle.files().map(file).collect()
}

/// Writes the files of a message into a folder that holds none of them yet; gives their paths.
pub(super) fn save(files: &[pb::ConfigFile], folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    // Names come from the cluster: they are checked as any other bundle's, so that none leaves the folder.
    let mut bundle = Bundle::default();
    for file in files {
        let refused = |error: model::plant::document::BundleError| CliError::File {
            path: folder.join(&file.name),
            reason: error.to_string(),
        };
        bundle.insert(&file.name, file.content.to_vec()).map_err(refused)?;
    }
    let paths: Vec<PathBuf> = bundle.files().map(|(name, _)| folder.join(name)).collect();
    if let Some(present) = paths.iter().find(|path| path.exists()) {
        let reason = "it exists already; choose another folder".to_owned();
        return Err(CliError::File { path: present.clone(), reason });
    }
    for ((_, bytes), path) in bundle.files().zip(&paths) {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
        }
        fs::write(path, bytes).map_err(|error| failed(path, &error))?;
    }
    Ok(paths)
}

fn failed(path: &Path, error: &std::io::Error) -> CliError {
    CliError::File { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_called_as_they_were_named() {
        let names = Names::of(Path::new("plants/hall-2.toml"));
        assert_eq!(names.name("plant.toml"), "plants/hall-2.toml");
        assert_eq!(names.name("press-1.csv"), "plants/press-1.csv");
        assert_eq!(Names::default().name("press-1.csv"), "press-1.csv");
    }

    const DOCUMENT: &str = "version = 1\n[[device]]\nid = \"press-1\"\ndriver = \"modbus-tcp\"\n\
        address = \"10.0.0.1:502\"\n[[device.group]]\nid = \"all\"\nperiod = \"1s\"\ntags = \"lists/press.csv\"\n";

    #[test]
    fn a_document_brings_the_files_it_names_and_they_come_back_byte_for_byte() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("lists")).expect("created");
        fs::write(folder.path().join("plant.toml"), DOCUMENT).expect("written");
        fs::write(folder.path().join("lists/press.csv"), "name,address,type\r\n").expect("written");
        let bundle = load(folder.path()).expect("readable");
        assert_eq!(
            bundle.files().map(|(name, _)| name).collect::<Vec<_>>(),
            ["lists/press.csv", "plant.toml"]
        );
        let other = tempfile::tempdir().expect("a temporary folder");
        save(&to_messages(&bundle), other.path()).expect("an empty folder");
        assert_eq!(load(&other.path().join("plant.toml")).expect("readable"), bundle);
        let again = save(&to_messages(&bundle), other.path());
        assert!(matches!(again, Err(CliError::File { .. })), "nothing is overwritten");
    }

    #[test]
    fn a_missing_document_is_named() {
        let error = load(Path::new("/nowhere/plant.toml")).expect_err("it is not there");
        assert!(error.to_string().contains("/nowhere/plant.toml"), "{error}");
    }

    #[test]
    fn no_file_is_written_outside_the_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = [pb::ConfigFile { name: "../evil".into(), content: Vec::new().into() }];
        assert!(save(&files, folder.path()).is_err());
        assert!(!folder.path().join("../evil").exists());
    }
}
