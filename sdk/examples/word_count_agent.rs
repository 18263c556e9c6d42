//! An agent that counts words. A sidecar starts it and sets `HIVE_AGENT_SOCKET`.

use hive_sdk::{Agent, Output, Task};

#[tokio::main]
async fn main() -> Result<(), hive_sdk::agent::Error> {
    Agent::from_env()?
        .serve(|task: Task| async move {
            let text = task.text()?;
            Ok(Output::text(format!("{} words", text.split_whitespace().count())))
        })
        .await
}
