use std::time::Duration;

use hive_sdk::local::{Case, How, run};
use hive_sdk::{Failure, Output, Task};

use crate::soon;

async fn patient(task: Task) -> Result<Output, Failure> {
    task.cancelled().await;
    Err(Failure::new("told to stop"))
}

#[tokio::test]
async fn a_cancel_is_told() {
    let ended = soon("the end", Case::new("x").cancel_after(Duration::from_millis(1)).run(patient)).await;
    assert_eq!(ended.how, How::Cancelled);
}

#[tokio::test]
async fn a_handler_that_does_not_listen_is_dropped_after_the_grace() {
    let deaf = |_: Task| async { std::future::pending().await };
    let case = Case::new("x").cancel_after(Duration::ZERO).grace(Duration::from_millis(5));
    assert_eq!(soon("the end", case.run(deaf)).await.how, How::Cancelled);
}

#[tokio::test]
async fn all_progress_is_recorded_in_order() {
    let busy = |task: Task| async move {
        for step in 0..20 {
            task.progress(f64::from(step) / 20.0, step.to_string());
        }
        task.progress(7.0, "more than all");
        Ok(Output::empty())
    };
    let ended = run(busy, "x").await;
    assert_eq!(ended.progress.len(), 21);
    assert_eq!(ended.progress[20].fraction, Some(1.0));
}

#[tokio::test]
async fn a_question_without_an_answer_ends_the_run() {
    let asks = |task: Task| async move { Ok(task.ask("why?").await?) };
    let ended = soon("the end", run(asks, "x")).await;
    assert_eq!((ended.how, ended.questions.len()), (How::Unanswered, 1));
    let ended = soon("the end", Case::new("x").cancel_at_question(1).run(asks)).await;
    assert_eq!(ended.how, How::Cancelled);
}

#[tokio::test]
async fn failures_and_panics_are_told() {
    let fails = |task: Task| async move {
        let _number: u32 = task.json()?;
        Ok(Output::empty())
    };
    let failure = run(fails, "x").await.failure().cloned().expect("not a number");
    assert!(failure.message().starts_with("the payload is not the JSON expected: "), "{failure}");
    let panics = |task: Task| async move { panic!("attempt {} of {}", task.attempt(), task.capability()) };
    let ended = Case::new("x").attempt(2).capability("wc").run(panics).await;
    assert_eq!(ended.how, How::Failed(Failure::new("the handler panicked: attempt 2 of wc")));
}

#[tokio::test]
async fn questions_asked_at_once_are_put_one_by_one() {
    let asks = |task: Task| async move {
        let (one, two) = tokio::try_join!(task.ask("one?"), task.ask("two?"))?;
        Ok(Output::text(format!("{} {}", one.as_text()?, two.as_text()?)))
    };
    let ended = soon("the end", Case::new("x").answer("1").answer("2").run(asks)).await;
    assert_eq!(ended.output(), Some(&Output::text("1 2")));
}
