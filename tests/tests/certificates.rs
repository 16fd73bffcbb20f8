//! A cluster with certificates, as `holdfast init` makes it: it founds itself, an admin changes it, a viewer only looks,
//! and whoever has no certificate gets nowhere. Judged by what the program says to people.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::certificates::Certificates;
use holdfast_tests::cluster::Cluster;
use holdfast_tests::said::Said;

const PLANT: &str = r#"version = 1
[[device]]
id = "press-1"
driver = "modbus-tcp"
address = "127.0.0.1:9"
[[device.group]]
id = "all"
period = "1s"
tag = [{ name = "pressure", address = "40101", type = "f32" }]
"#;

/// What a server answers to a plain HTTP/2 preface; nothing if it ends the connection.
fn answer_in_plaintext(at: SocketAddr) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_made_by_init_obeys_its_admin_and_nobody_else() -> Result<()> {
    let mut made = None;
    let cluster = Cluster::begin_with(async |layout| {
        let certificates = Certificates::make(layout).await?;
        certificates.use_files_of_init(layout);
        made = Some(certificates);
        Ok(())
    })
    .await?;
    let certificates = made.context("they were made")?;
    std::fs::write(cluster.folder().join("plant.toml"), PLANT)?;
    let next = &certificates.next;
    ensure!(next.contains("plant-7/node-2/node.toml") && next.contains("plant-7/admin"), "{next}");
    let init: Vec<&str> = certificates.init.iter().map(String::as_str).collect();
    ensure!(certificates.run(&init).await?.code != 0, "it overwrites nothing");
    certificates.issue("viewer", "anna", "plant-7/authority").await?;

    let as_admin = async |words: &[&str]| {
        let profile = ["--profile", "plant-7/admin/profile.toml"];
        cluster
            .until(&format!("{words:?}"), async || {
                certificates.run(&[words, &profile].concat()).await.and_then(Said::done)
            })
            .await
    };
    as_admin(&["leader", "show"]).await?;
    as_admin(&["config", "apply", "plant.toml"]).await?;

    // The audit trail has the name in the certificate, and no mark that it was only claimed.
    let history = as_admin(&["config", "history", "-o", "json"]).await?;
    ensure!(history.contains("\"admin\""), "{history}");
    ensure!(!history.contains("claimed"), "{history}");

    let second = cluster.node(1).admin;
    let looked = certificates.run_as("anna", second, &["device", "list", "-o", "json"]).await?;
    ensure!(looked.output.contains("press-1") || looked.errors.contains("HF-3101"), "{looked:?}");
    // A renewed certificate says the same of the same key.
    let held = cluster.folder().join("anna/client.pem");
    let before = std::fs::read(&held)?;
    let renew = ["pki", "renew", "anna/client.pem", "--authority", "plant-7/authority", "--days", "30"];
    certificates.run(&renew).await?.done()?;
    ensure!(std::fs::read(&held)? != before, "it is the old one");
    let refused = certificates.run_as("anna", second, &["config", "apply", "plant.toml"]).await?;
    ensure!(refused.code == 1, "{refused:?}");
    for word in ["HF-8103", "admin", "viewer anna"] {
        ensure!(refused.errors.contains(word), "{word} in {refused:?}");
    }

    let first = cluster.node(0).admin;
    let plain = certificates.run(&["leader", "show", "--endpoints", &format!("http://{first}")]).await?;
    ensure!(plain.code == 4 && plain.errors.contains("--tls-dir"), "{plain:?}");
    for at in [cluster.node(0).peers, cluster.node(0).admin] {
        let answer = answer_in_plaintext(at)?;
        // 0x15: an alert of TLS. Settings of HTTP/2 would begin with their length.
        ensure!(answer.is_empty() || answer[0] == 0x15, "{at} answers {answer:?}");
    }

    // Another authority of the same name: neither side trusts the other.
    certificates.run(&["pki", "init", "plant-7", "--into", "other"]).await?.done()?;
    certificates.issue("admin", "eve", "other").await?;
    let stranger = certificates.run_as("eve", first, &["leader", "show"]).await?;
    ensure!(stranger.code == 4 && stranger.errors.contains("authority"), "{stranger:?}");
    Ok(())
}
