//! `[tls]`: the certificates that a node file names, read and checked.

use std::path::{Path, PathBuf};

use model::plant::document::Fields;
use tls::{Credentials, Files};

/// Reads the table, whose paths are relative to `folder`, and the files; they must be those of `holder`: cluster and node,
/// as far as these could be read.
pub(super) fn read(
    mut fields: Fields<'_>,
    folder: &Path,
    holder: Option<(&str, &str)>,
) -> Option<Credentials> {
    let ca = path(&mut fields, "ca", "the authorities that are trusted", folder);
    let cert = path(&mut fields, "cert", "this node's certificate", folder);
    let key = path(&mut fields, "key", "its key", folder);
    fields.finish();
    let wrong = match Credentials::load(&Files { ca: ca?, cert: cert?, key: key? }) {
        Ok(credentials) => {
            let (cluster, node) = holder?;
            match credentials.check_node(cluster, node) {
                wrong if wrong.is_empty() => return Some(credentials),
                wrong => wrong,
            }
        }
        Err(wrong) => wrong,
    };
    for problem in wrong {
        fields.error(fields.place(), problem.to_string());
    }
    None
}

fn path(fields: &mut Fields<'_>, key: &'static str, what: &str, folder: &Path) -> Option<PathBuf> {
    let path = fields.text(key);
    fields.missing(key, what);
    path.map(|path| folder.join(path.value))
}
