//! The arrows between crates, who may touch which foreign world, and what all of it may stand on.
//!
//! Owns the three tables below; they are the rule, `ARCHITECTURE.md` is the story. Whoever adds a crate or an arrow
//! changes a table and says why in its row.
//!
//! - Every crate of the workspace has a row in [`CRATES`] and leans only on crates of rows above its own.
//! - A dependency named in [`FOREIGN`] belongs to the crates named there and to nobody else.
//! - Every grant is used: what is no longer needed leaves the table.
//! - Licences and banned packages are those of `deny.toml`, read from there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use toml_edit::DocumentMut;

/// A crate, the crates of ours that it may lean on, and why.
struct Crate {
    name: &'static str,
    leans_on: &'static [&'static str],
    why: &'static str,
}

/// From the bottom up: an arrow leads to a row above.
const CRATES: &[Crate] = &[
    Crate { name: "model", leans_on: &[], why: "our words; they know nobody" },
    Crate {
        name: "runtime",
        leans_on: &["model"],
        why: "implements the model's Clock; everything that runs needs it",
    },
    Crate { name: "wire", leans_on: &["model"], why: "bytes to model and back" },
    Crate {
        name: "tls",
        leans_on: &["model"],
        why: "certificates and who they name: docs/adr/0011; its clock is the model's",
    },
    Crate {
        name: "store",
        leans_on: &["model", "runtime", "wire"],
        why: "keeps encoded entries; knows no Raft library",
    },
    Crate {
        name: "replication",
        leans_on: &["model", "runtime", "wire", "store"],
        why: "agrees on what the store keeps",
    },
    Crate {
        name: "drivers",
        leans_on: &["model", "runtime"],
        why: "readings are the model's; no Raft, only its Permit",
    },
    Crate {
        name: "ingest",
        leans_on: &["model", "runtime", "wire"],
        why: "proposes through a trait, never to Raft itself",
    },
    Crate {
        name: "destinations",
        leans_on: &["model", "runtime"],
        why: "a delivery and its answer; no Raft",
    },
    Crate {
        name: "gateway",
        leans_on: &[
            "model",
            "runtime",
            "wire",
            "tls",
            "store",
            "replication",
            "drivers",
            "ingest",
            "destinations",
        ],
        why: "the one place where a node is put together; replication's seams for connections get TLS from here",
    },
    Crate {
        name: "simulator",
        leans_on: &["model", "wire"],
        why: "the outside world: it must not share our judgement",
    },
    Crate {
        name: "holdfast",
        leans_on: &["model", "runtime", "wire", "tls", "gateway", "simulator"],
        why: "a node, a client of the admin API, its certificates, and the demo; nothing behind the gateway",
    },
    Crate {
        name: "kernel",
        leans_on: &[],
        why: "calls of the kernel for the fault kit; apart, because it has unsafe",
    },
    Crate {
        name: "preload",
        leans_on: &[],
        why: "is loaded before libc into nodes that the fault kit breaks; apart, because it has unsafe; nobody links it",
    },
    Crate {
        name: "tests",
        leans_on: &["model", "runtime", "wire", "tls", "store", "simulator", "kernel"],
        why: "judges real processes from outside; where they ask for certificates, as a caller who has some; cuts power, lays \
              wires; a store by itself under power cuts, with the seeds and the tasks of its house",
    },
    Crate {
        name: "sim",
        leans_on: &[
            "model",
            "runtime",
            "wire",
            "store",
            "replication",
            "drivers",
            "ingest",
            "destinations",
            "gateway",
        ],
        why: "replicas on simulated disks, networks and clocks, and what the gateway does on them: it needs their seams, and \
              judges what they show",
    },
    Crate {
        name: "benches",
        leans_on: &["model", "runtime", "wire", "store", "replication", "simulator"],
        why: "measures real processes from outside, and three replicas alone where nothing else shall be measured",
    },
];

/// A foreign world: packages by name (a `*` at the end stands for any rest), the crates that may name them, those
/// that may in their tests only, and why.
struct Foreign {
    packages: &'static [&'static str],
    owners: &'static [&'static str],
    in_tests: &'static [&'static str],
    why: &'static str,
}

const FOREIGN: &[Foreign] = &[
    Foreign {
        packages: &["rocksdb"],
        owners: &["store"],
        in_tests: &[],
        why: "whoever writes to the disk must keep the order of the commit loop",
    },
    Foreign {
        packages: &["openraft*"],
        owners: &["replication"],
        in_tests: &[],
        why: "an alpha with a moving surface: docs/adr/0001",
    },
    Foreign {
        packages: &["prost*", "pbjson*", "protox", "tonic-prost*"],
        owners: &["wire"],
        in_tests: &[],
        why: "formats are kept in one room, or they drift",
    },
    Foreign {
        packages: &["tonic"],
        owners: &[
            "wire",
            "replication",
            "ingest",
            "gateway",
            "simulator",
            "holdfast",
            "tests",
            "sim",
            "benches",
        ],
        in_tests: &[],
        why: "wire holds the generated services; the others serve or call them",
    },
    Foreign {
        packages: &["tonic-health", "tonic-reflection"],
        owners: &["gateway"],
        in_tests: &[],
        why: "they belong to the listener of the admin API",
    },
    Foreign {
        packages: &["tokio-modbus"],
        owners: &["drivers"],
        in_tests: &["simulator"],
        why: "a field protocol: drivers read; the simulator writes frames of its own, and a stranger tests them",
    },
    Foreign {
        packages: &["reqwest"],
        owners: &["destinations"],
        in_tests: &[],
        why: "only a destination speaks HTTP to the far side",
    },
    Foreign {
        packages: &["rcgen", "x509-parser"],
        owners: &["tls"],
        in_tests: &["destinations"],
        why: "who a certificate names is read and written in one place; a simulated receiver needs one, too",
    },
    Foreign {
        packages: &["rustls", "tokio-rustls", "rustls-pki-types"],
        owners: &["tls", "destinations"],
        in_tests: &[],
        why: "between nodes and on the API, `tls` alone says who is let in; a destination trusts other authorities",
    },
    Foreign {
        packages: &["csv"],
        owners: &["destinations", "model"],
        in_tests: &[],
        why: "a destination writes such files; the model reads register lists, which are text and no I/O",
    },
    Foreign {
        packages: &["axum"],
        owners: &["gateway", "simulator"],
        in_tests: &["destinations"],
        why: "HTTP in: health, simulated receivers",
    },
    Foreign {
        packages: &["turmoil"],
        owners: &["sim"],
        in_tests: &[],
        why: "a simulated network is brought from outside, through the seams of replication",
    },
    Foreign {
        packages: &["clap*"],
        owners: &["holdfast", "tests", "sim", "benches"],
        in_tests: &[],
        why: "only what is run by a person has a command line: the program, the proof kit, the benches",
    },
    Foreign {
        packages: &["comfy-table", "crossterm", "tracing-subscriber"],
        owners: &["holdfast"],
        in_tests: &[],
        why: "only the program speaks to a person",
    },
    Foreign {
        packages: &["nix"],
        owners: &["runtime"],
        in_tests: &[],
        why: "the timer of the dead-man, docs/adr/0024; everything else of the system is asked through rustix or tokio",
    },
    Foreign {
        packages: &["libc"],
        owners: &["preload"],
        in_tests: &[],
        why: "functions under the names of libc's; everything else of the system is asked through rustix or tokio",
    },
    Foreign {
        packages: &["anyhow"],
        owners: &["holdfast", "tests", "sim", "benches"],
        in_tests: &[],
        why: "a library's errors are its caller's choices",
    },
];

/// What a crate may not name at all: the crate, the packages, and why.
const NEVER: &[(&str, &[&str], &str)] = &[
    (
        "model",
        &["tokio*", "futures*", "socket2", "rustix", "hyper*", "tower*", "rustls*", "tracing*", "rand*"],
        "no I/O, no clock, no chance: what it says depends on its arguments alone",
    ),
    ("wire", &["tokio*", "socket2", "rustix"], "a format is the same whoever carries it"),
];

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    /// Absent for an ordinary one, else `dev` or `build`.
    kind: Option<String>,
}

impl Package {
    /// The name of one of our crates as the tables and the code have it.
    fn short_name(&self) -> &str {
        short_name(&self.name)
    }
}

impl Dependency {
    fn is_for_tests(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

fn short_name(package: &str) -> &str {
    package.strip_prefix("holdfast-").unwrap_or(package)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn metadata(arguments: &[&str]) -> Result<Metadata> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(arguments)
        .current_dir(root())
        .output()
        .context("starting cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("reading what cargo metadata wrote")
}

fn workspace() -> Result<Metadata> {
    metadata(&["--no-deps"])
}

/// Every package of a build for this machine: those of other systems need not have been fetched.
fn everything() -> Result<Metadata> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("starting rustc")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host =
        said.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    metadata(&["--filter-platform", host])
}

fn toml(file: &str) -> Result<DocumentMut> {
    let text = std::fs::read_to_string(root().join(file)).with_context(|| format!("reading {file}"))?;
    text.parse().with_context(|| format!("reading {file} as TOML"))
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == pattern,
    }
}

/// Arrows of `package` to crates of ours that its row does not allow.
fn wrong_arrows(package: &Package, row: &Crate) -> Vec<String> {
    let ours = |name: &str| CRATES.iter().any(|row| row.name == short_name(name));
    package
        .dependencies
        .iter()
        .filter(|dependency| ours(&dependency.name))
        .filter(|dependency| !row.leans_on.contains(&short_name(&dependency.name)))
        // In its tests anybody may meet a simulated device, pusher or receiver.
        .filter(|dependency| !(dependency.is_for_tests() && short_name(&dependency.name) == "simulator"))
        .map(|dependency| format!("{} -> {} ({})", row.name, short_name(&dependency.name), row.why))
        .collect()
}

/// Dependencies of `package` on a foreign world that belongs to others.
fn trespasses(package: &Package) -> Vec<String> {
    let mut found = Vec::new();
    for dependency in &package.dependencies {
        for world in
            FOREIGN.iter().filter(|world| world.packages.iter().any(|p| matches(p, &dependency.name)))
        {
            let is_owner = world.owners.contains(&package.short_name());
            let is_test = dependency.is_for_tests() && world.in_tests.contains(&package.short_name());
            if !is_owner && !is_test {
                found.push(format!("{} -> {} ({})", package.short_name(), dependency.name, world.why));
            }
        }
        let banned = |(name, packages, _): &&(&str, &[&str], &str)| {
            *name == package.short_name() && packages.iter().any(|p| matches(p, &dependency.name))
        };
        if let Some((_, _, why)) = NEVER.iter().find(banned).filter(|_| !dependency.is_for_tests()) {
            found.push(format!("{} -> {} ({why})", package.short_name(), dependency.name));
        }
    }
    found
}

/// Whether a licence expression can be met with `allowed` alone. `/` is the old way to write `OR`.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at, allowed);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at, allowed);
        let is_closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && is_closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return allowed.contains(&format!("{word} WITH {exception}"));
    }
    allowed.contains(*word)
}

#[test]
fn every_crate_leans_only_on_crates_below_it() -> Result<()> {
    let mut wrong = Vec::new();
    for package in workspace()?.packages {
        match CRATES.iter().find(|row| row.name == package.short_name()) {
            Some(row) => wrong.extend(wrong_arrows(&package, row)),
            None => wrong.push(format!("{} has no row in the table", package.name)),
        }
    }
    ensure!(wrong.is_empty(), "arrows that the table does not allow:\n  {}", wrong.join("\n  "));
    Ok(())
}

#[test]
fn the_table_of_crates_points_only_upward_in_itself_and_names_only_crates_that_exist() -> Result<()> {
    let packages = workspace()?.packages;
    for (index, row) in CRATES.iter().enumerate() {
        ensure!(packages.iter().any(|p| p.short_name() == row.name), "there is no crate {}", row.name);
        for below in row.leans_on {
            let is_above = CRATES[..index].iter().any(|earlier| earlier.name == *below);
            ensure!(is_above, "{} -> {below}: {below} has no row above", row.name);
        }
    }
    Ok(())
}

#[test]
fn a_foreign_world_is_touched_only_by_its_owners() -> Result<()> {
    let wrong: Vec<_> = workspace()?.packages.iter().flat_map(trespasses).collect();
    ensure!(wrong.is_empty(), "dependencies that belong to another crate:\n  {}", wrong.join("\n  "));
    Ok(())
}

#[test]
fn every_owner_of_a_foreign_world_is_a_crate_of_ours() -> Result<()> {
    let known = |name: &&&str| CRATES.iter().any(|row| row.name == **name);
    for world in FOREIGN {
        for owner in world.owners.iter().chain(world.in_tests) {
            ensure!(known(&owner), "{:?} belongs to {owner}, which is no crate", world.packages);
        }
    }
    for (name, packages, _) in NEVER {
        ensure!(known(&name), "{packages:?} is forbidden to {name}, which is no crate");
    }
    Ok(())
}

#[test]
fn everything_that_the_tables_grant_is_used() -> Result<()> {
    let packages = workspace()?.packages;
    let names = |owner: &str, pattern: &str, for_tests: bool| {
        let owner = packages.iter().find(|package| package.short_name() == owner);
        owner.is_some_and(|package| {
            let mut alike = package.dependencies.iter().filter(|named| named.is_for_tests() == for_tests);
            alike.any(|named| matches(pattern, short_name(&named.name)))
        })
    };
    let mut unused = Vec::new();
    for row in CRATES {
        let unneeded = row.leans_on.iter().filter(|below| !names(row.name, below, false));
        unused.extend(unneeded.map(|below| format!("{} -> {below}", row.name)));
    }
    for world in FOREIGN {
        let ordinary = world.owners.iter().map(|owner| (*owner, false));
        let grants: Vec<_> = ordinary.chain(world.in_tests.iter().map(|owner| (*owner, true))).collect();
        for (owner, for_tests) in &grants {
            if !world.packages.iter().any(|pattern| names(owner, pattern, *for_tests)) {
                unused.push(format!("{owner} -> {:?}", world.packages));
            }
        }
        for pattern in world.packages {
            if !grants.iter().any(|(owner, for_tests)| names(owner, pattern, *for_tests)) {
                unused.push(format!("nobody -> {pattern}"));
            }
        }
    }
    ensure!(unused.is_empty(), "the tables grant what nobody uses:\n  {}", unused.join("\n  "));
    Ok(())
}

#[test]
fn an_arrow_out_of_the_table_is_found() {
    let depends_on =
        |name: &str, kind: Option<&str>| Dependency { name: name.into(), kind: kind.map(Into::into) };
    let drivers = Package {
        name: "holdfast-drivers".into(),
        version: "0.1.0".into(),
        license: None,
        dependencies: vec![
            depends_on("holdfast-model", None),
            depends_on("holdfast-ingest", None),
            depends_on("holdfast-simulator", Some("dev")),
            depends_on("openraft-macros", Some("dev")),
            depends_on("tokio-modbus", None),
        ],
    };
    let row = CRATES.iter().find(|row| row.name == "drivers").expect("drivers is in the table");
    let arrows = wrong_arrows(&drivers, row);
    assert_eq!(arrows.len(), 1, "expected the sideways arrow to ingest alone, saw {arrows:?}");
    assert!(arrows[0].starts_with("drivers -> ingest"), "saw {arrows:?}");
    let foreign = trespasses(&drivers);
    assert_eq!(foreign.len(), 1, "expected openraft alone, saw {foreign:?}");
    assert!(foreign[0].starts_with("drivers -> openraft-macros"), "saw {foreign:?}");
}

#[test]
fn every_licence_is_one_that_deny_toml_allows() -> Result<()> {
    let deny = toml("deny.toml")?;
    let list = deny["licenses"]["allow"].as_array().context("deny.toml has no licenses.allow")?;
    let allowed: BTreeSet<String> = list.iter().filter_map(|item| item.as_str()).map(str::to_owned).collect();
    let mut wrong = Vec::new();
    for package in everything()?.packages {
        let licence = package.license.as_deref().unwrap_or("no licence named");
        if !is_met(licence, &allowed) {
            wrong.push(format!("{} {}: {licence}", package.name, package.version));
        }
    }
    ensure!(wrong.is_empty(), "licences that deny.toml does not allow:\n  {}", wrong.join("\n  "));
    Ok(())
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned));
    for met in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "MIT AND ISC",
        "(GPL-3.0 OR MIT) AND ISC",
        "Apache-2.0 WITH LLVM-exception",
        "GPL-3.0 AND ISC OR MIT",
    ] {
        assert!(is_met(met, &allowed), "{met} can be met");
    }
    for unmet in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "Apache-2.0", "MIT GPL-3.0", "(MIT"]
    {
        assert!(!is_met(unmet, &allowed), "{unmet:?} cannot be met");
    }
}

#[test]
fn nothing_is_built_that_deny_toml_bans() -> Result<()> {
    let deny = toml("deny.toml")?;
    let list = deny["bans"]["deny"].as_array().context("deny.toml has no bans.deny")?;
    let banned = list
        .iter()
        .map(|item| {
            let table = item.as_inline_table().context("a ban is a table { crate, reason }")?;
            table.get("crate").and_then(|name| name.as_str()).context("a ban names a crate")
        })
        .collect::<Result<BTreeSet<_>>>()?;
    ensure!(!banned.is_empty(), "deny.toml bans nothing");
    for package in everything()?.packages {
        ensure!(!banned.contains(package.name.as_str()), "{} is banned in deny.toml", package.name);
    }
    Ok(())
}

#[test]
fn every_package_comes_with_a_checksum_from_one_registry() -> Result<()> {
    let lock = toml("Cargo.lock")?;
    let packages = lock["package"].as_array_of_tables().context("Cargo.lock names no package")?;
    let mut registries = BTreeSet::new();
    for package in packages {
        let name = package.get("name").and_then(|name| name.as_str()).context("a package has a name")?;
        let Some(source) = package.get("source").and_then(|source| source.as_str()) else {
            let is_ours = CRATES.iter().any(|row| row.name == short_name(name));
            ensure!(is_ours, "{name} comes from a folder and is no crate of ours");
            continue;
        };
        ensure!(source.starts_with("registry+"), "{name} comes from {source}, which is no registry");
        ensure!(package.contains_key("checksum"), "{name} has no checksum");
        registries.insert(source);
    }
    ensure!(registries.len() == 1, "packages come from several registries: {registries:?}");
    Ok(())
}
