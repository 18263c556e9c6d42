//! Submits a task and waits for its end: `submit [ENDPOINT] [CAPABILITY] [TEXT]`.

use std::error::Error;
use std::time::Duration;

use hive_sdk::Client;
use hive_sdk::client::{DEFAULT_ENDPOINT, TaskExt as _, TaskSpec};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let endpoint = words.next().unwrap_or(DEFAULT_ENDPOINT.to_owned());
    let capability = words.next().unwrap_or("words".to_owned());
    let text = words.next().unwrap_or("a rose is a rose".to_owned());

    let client = Client::builder().endpoint(endpoint).connect().await?;
    let handle = client.submit(TaskSpec::new(capability).payload(text)).await?;
    eprintln!("submitted {}", handle.id());
    let task = handle.wait(Duration::from_secs(60)).await?;
    match task.output() {
        Some(output) => println!("{}", output.as_text()?),
        None => println!("{:?}: {}", task.state(), task.failure.unwrap_or_default().message),
    }
    Ok(())
}
