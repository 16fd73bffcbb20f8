//! temporary
#[tokio::main]
async fn main() {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::new(std::env::var("RUST_LOG").unwrap_or("info,openraft=warn".into()))).with_ansi(false).init();
    let config = holdfast_gateway::NodeConfig::read(std::env::args().nth(1).unwrap().as_ref()).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let s = stop.clone();
    tokio::spawn(async move { tokio::signal::ctrl_c().await.unwrap(); s.cancel(); });
    let node = holdfast_gateway::RunningNode::start(config, stop.clone()).await.unwrap();
    node.run(stop).await.unwrap();
}
