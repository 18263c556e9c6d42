//! An agent that tells its progress, asks its client, and stops when it is told to.

use std::time::Duration;

use hive_sdk::{Agent, Failure, Output, Task};

const COATS: u32 = 5;

async fn paint(task: Task) -> Result<Output, Failure> {
    let what = task.text()?;
    task.progress(0.0, "asking for a colour");
    let answer = task.ask(format!("Which colour for {what}?")).await?;
    let colour = answer.as_text()?;
    if colour.is_empty() {
        return Err(Failure::new("no colour, no paint"));
    }
    for coat in 1..=COATS {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
            // Put the brush down; what is returned as an error now counts as cancelled.
            () = task.cancelled() => return Err(Failure::new("told to stop")),
        }
        task.progress(f64::from(coat) / f64::from(COATS), format!("coat {coat} of {COATS}"));
    }
    Ok(Output::text(format!("{what} is {colour} now")))
}

#[tokio::main]
async fn main() -> Result<(), hive_sdk::agent::Error> {
    Agent::from_env()?.serve(paint).await
}
