//! Yardsticks: programs that do as little as can be done with the same libraries on the same machine
//! in the same run. What Hive adds to them is what Hive costs.

pub mod pipeline;
pub mod store;
pub mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::child::{Child, own};

/// The bare pipeline over a durable store, or over nothing: tasks per second of each run, and submit
/// to start at 50 tasks/s.
pub fn pipeline(store: Option<&Path>, workers: usize, window: usize, runs: u32, length: Duration) -> pipeline::Found {
    let mut server = own("yardstick-serve", [store.map_or(String::from("-"), |path| path.display().to_string())]);
    let address: SocketAddr = server.line().parse().expect("an address");
    let mut work = own("yardstick-work", [address.to_string(), workers.to_string()]);
    assert_eq!(work.line(), "ready");
    let millis = length.as_millis().to_string();
    let mut load = own("yardstick-load", [address.to_string(), window.to_string(), runs.to_string(), millis]);
    let found = serde_json::from_str(&load.line()).expect("what the load found");
    [load, work, server].into_iter().for_each(Child::kill);
    found
}

/// `count` bare connections with one open stream each: the milliseconds from each stream's opening to
/// its first answer, all at once, and the server's KiB for each once they idle.
pub fn connections(count: usize) -> (Vec<f64>, f64) {
    let mut server = own("yardstick-serve", ["-".to_owned()]);
    let address: SocketAddr = server.line().parse().expect("an address");
    let before = server.rss_kib();
    let mut idle = own("yardstick-idle", [address.to_string(), count.to_string()]);
    let times = serde_json::from_str(&idle.line()).expect("times");
    let each = (server.rss_kib() - before) / count as f64;
    [idle, server].into_iter().for_each(Child::kill);
    (times, each)
}

/// What this program does when it is started as a part of a yardstick.
pub async fn part(name: &str, arguments: &[String]) {
    let number = |at: usize| arguments[at].parse::<usize>().expect("a number");
    let address = || arguments[0].parse::<SocketAddr>().expect("an address");
    match name {
        "yardstick-serve" => pipeline::serve((arguments[0] != "-").then(|| Path::new(&arguments[0]))).await,
        "yardstick-work" => pipeline::work(address(), number(1)).await,
        "yardstick-load" => {
            let runs = u32::try_from(number(2)).expect("few");
            let length = Duration::from_millis(number(3) as u64);
            let found = pipeline::load(address(), number(1), runs, length, 300).await;
            println!("{}", serde_json::to_string(&found).expect("written"));
        }
        "yardstick-idle" => {
            let times = pipeline::idle(address(), number(1)).await;
            println!("{}", serde_json::to_string(&times).expect("written"));
            std::future::pending().await
        }
        _ => panic!("no part {name}"),
    }
}
