//! How the cluster is reached: endpoints and certificates, from options, the environment, or a profile file.
//!
//! - What is said on the command line comes before the environment, and that before the profile.
//! - A profile is named, or lies in the user's folder of settings; its paths are relative to it.
//! - An endpoint that begins with `http://` is talked to in plaintext whatever certificates there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tls::{Credentials, Files, Keeper};

use super::error::{CliError, warn};

/// Nodes of a cluster on this machine.
const LOCAL: [&str; 3] = ["127.0.0.1:7611", "127.0.0.1:7621", "127.0.0.1:7631"];
/// Where `holdfast init` puts a client's files, all in one folder.
pub(super) const CA: &str = "ca.pem";
pub(super) const CERT: &str = "client.pem";
pub(super) const KEY: &str = "client.key";
pub(super) const PROFILE: &str = "profile.toml";

/// Options that say how the cluster is reached.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct AccessArgs {
    /// Nodes to ask, in this order; any node will do [default: those of the profile, else the three local ones].
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT,…",
        env = "HOLDFAST_ENDPOINTS",
        value_delimiter = ','
    )]
    pub(crate) endpoints: Vec<String>,
    /// Endpoints and certificates in one file [default: holdfast/profile.toml in the folder of your settings].
    #[arg(long = "profile", global = true, value_name = "FILE", env = "HOLDFAST_CLIENT_PROFILE")]
    profile: Option<PathBuf>,
    /// Folder with ca.pem, client.pem and client.key.
    #[arg(long, global = true, value_name = "DIR", env = "HOLDFAST_TLS_DIR")]
    tls_dir: Option<PathBuf>,
    /// The authority of the cluster.
    #[arg(long, global = true, value_name = "FILE", env = "HOLDFAST_CA")]
    ca: Option<PathBuf>,
    /// Your certificate.
    #[arg(long, global = true, value_name = "FILE", env = "HOLDFAST_CERT")]
    cert: Option<PathBuf>,
    /// The key of your certificate.
    #[arg(long, global = true, value_name = "FILE", env = "HOLDFAST_KEY")]
    key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    #[serde(default)]
    endpoints: Vec<String>,
    tls: Option<TlsFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFile {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// How the cluster is reached.
pub(crate) struct Access {
    /// Nodes to ask.
    pub(crate) endpoints: Vec<String>,
    /// Certificates, if there are any.
    pub(crate) keeper: Option<Keeper>,
}

impl AccessArgs {
    /// Reads the profile and the certificates.
    pub(super) fn resolve(&self) -> Result<Access, CliError> {
        self.resolve_with(own_profile())
    }

    fn resolve_with(&self, own_profile: Option<PathBuf>) -> Result<Access, CliError> {
        let profile = match (&self.profile, own_profile) {
            (Some(named), _) => Profile::read(named)?,
            (None, Some(own)) if own.exists() => Profile::read(&own)?,
            _ => Profile::default(),
        };
        let given: Vec<String> = trimmed(&self.endpoints);
        let endpoints = match (given.is_empty(), profile.endpoints.is_empty()) {
            (false, _) => given,
            (true, false) => trimmed(&profile.endpoints),
            (true, true) => LOCAL.map(str::to_owned).to_vec(),
        };
        let files = match self.files()? {
            Some(files) => Some(files),
            None => profile.tls.map(|TlsFile { ca, cert, key }| Files { ca, cert, key }),
        };
        let keeper = files.as_ref().map(keeper).transpose()?;
        Ok(Access { endpoints, keeper })
    }

    /// The files that options and environment name.
    fn files(&self) -> Result<Option<Files>, CliError> {
        let in_folder = |name: &str| self.tls_dir.as_ref().map(|folder| folder.join(name));
        let ca = self.ca.clone().or_else(|| in_folder(CA));
        let cert = self.cert.clone().or_else(|| in_folder(CERT));
        let key = self.key.clone().or_else(|| in_folder(KEY));
        match (ca, cert, key) {
            (None, None, None) => Ok(None),
            (Some(ca), Some(cert), Some(key)) => Ok(Some(Files { ca, cert, key })),
            _ => Err(CliError::Usage(
                "--ca, --cert and --key belong together; name all three, or their folder with --tls-dir"
                    .to_owned(),
            )),
        }
    }
}

impl Profile {
    fn read(path: &Path) -> Result<Self, CliError> {
        let wrong = |reason: String| CliError::File { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let mut profile: Self = toml_edit::de::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        if let Some(TlsFile { ca, cert, key }) = &mut profile.tls {
            for file in [ca, cert, key] {
                *file = folder.join(&*file);
            }
        }
        Ok(profile)
    }
}

fn keeper(files: &Files) -> Result<Keeper, CliError> {
    let credentials = Credentials::load(files).map_err(CliError::Certificates)?;
    if credentials.key_is_exposed() {
        let key = files.key.display();
        warn(&format!("HF-1208: everybody on this machine can read {key}: `chmod 600 {key}`"));
    }
    Keeper::new(credentials, Arc::new(runtime::SystemClock))
        .map_err(|error| CliError::File { path: files.cert.clone(), reason: error.to_string() })
}

fn trimmed(endpoints: &[String]) -> Vec<String> {
    let names = endpoints.iter().map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

fn own_profile() -> Option<PathBuf> {
    let named = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let settings = named("XDG_CONFIG_HOME").or_else(|| Some(named("HOME")?.join(".config")))?;
    Some(settings.join("holdfast").join(PROFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(endpoints: &[&str]) -> AccessArgs {
        AccessArgs {
            endpoints: endpoints.iter().map(|&name| name.to_owned()).collect(),
            ..AccessArgs::default()
        }
    }

    #[test]
    fn what_is_named_comes_before_the_profile_and_that_before_the_local_nodes() {
        let folder = tempfile::tempdir().expect("a folder");
        let profile = folder.path().join(PROFILE);
        let nowhere = Some(folder.path().join("nowhere.toml"));
        std::fs::write(&profile, "endpoints = [\"a:1\", \"b:1\"]\n").expect("written");
        let endpoints = |args: AccessArgs, own| args.resolve_with(own).expect("readable").endpoints;
        assert_eq!(endpoints(args(&["c:1 "]), Some(profile.clone())), ["c:1"]);
        assert_eq!(endpoints(args(&[]), Some(profile)), ["a:1", "b:1"]);
        assert_eq!(endpoints(args(&[]), nowhere), LOCAL);
    }

    #[test]
    fn a_profile_that_is_named_must_be_there_and_make_sense() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(PROFILE);
        let named = AccessArgs { profile: Some(path.clone()), ..args(&[]) };
        assert!(matches!(named.resolve_with(None), Err(CliError::File { .. })));
        std::fs::write(&path, "endpoint = [\"a:1\"]\n").expect("written");
        let Err(error) = named.resolve_with(None) else { panic!("there is no such key") };
        assert!(error.to_string().contains("endpoint"), "{error}");
    }

    #[test]
    fn one_file_of_three_is_not_enough() {
        let lonely = AccessArgs { cert: Some("c.pem".into()), ..args(&[]) };
        assert!(matches!(lonely.resolve_with(None), Err(CliError::Usage(_))));
        let folder = AccessArgs { tls_dir: Some("/nowhere".into()), ..args(&[]) };
        let Err(CliError::Certificates(problems)) = folder.resolve_with(None) else {
            panic!("there are no such files")
        };
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
