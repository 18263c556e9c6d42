//! Bodies that are stored apart from their records, brought to where a task is shown.

use hive_core::id::{Namespace, TaskId};
use hive_core::leader::View;
use hive_core::record::{BlobKey, BlobPart, End, Phase, TaskRecord};
use hive_proto::v1;
use tonic::Status;

use super::error::Reason;
use super::tasks::{LATER, find};
use crate::driver::Handle;
use crate::store::{Store, codec};

/// Completes a task: an open question always, payload and result if it is to be shown in full.
/// What retention has taken away meanwhile stays empty.
pub(super) async fn fill<S: Store>(
    store: &S,
    namespace: &Namespace,
    record: &TaskRecord,
    task: &mut v1::Task,
    full: bool,
) -> Result<(), Status> {
    let read = |wanted: bool, part| {
        let key = codec::blob_key(&BlobKey { namespace: namespace.clone(), task: record.id, part });
        async move {
            if !wanted {
                return Ok(None);
            }
            let unreadable = |e| Reason::StoreUnavailable.retry_after(format!("a body can't be read: {e}"), LATER);
            store.blob(&key).await.map_err(unreadable)
        }
    };
    if let Some(data) = read(full && record.spec.payload.is_blob(), BlobPart::Payload).await?
        && let Some(payload) = task.spec.as_mut().and_then(|spec| spec.payload.as_mut())
    {
        payload.data = data;
    }
    if let Phase::Ended { end: End::Succeeded(body), .. } = &record.phase
        && let Some(data) = read(full && body.is_blob(), BlobPart::Result).await?
        && let Some(result) = task.result.as_mut()
    {
        result.data = data;
    }
    // By its number, not by the record: that may have moved on since the event.
    if let Some(request) = &mut task.input_request
        && let Some(prompt) = request.prompt.as_mut().filter(|prompt| prompt.data.is_empty())
        && let Some(data) = read(true, BlobPart::Question(request.number)).await?
    {
        prompt.data = data;
    }
    Ok(())
}

/// Completes the task of a watch's event.
pub(super) async fn fill_event<S: Store>(
    handle: &Handle,
    store: &S,
    namespace: &Namespace,
    event: Option<&mut v1::TaskEvent>,
    full: bool,
) -> Result<(), Status> {
    let Some(task) = event.and_then(|event| event.task.as_mut()) else { return Ok(()) };
    // Those who deleted it have taken its bodies as well.
    let Some(id) = TaskId::parse(&task.id).ok().filter(|_| full || task.input_request.is_some()) else { return Ok(()) };
    let (ns, now) = (namespace.clone(), handle.now());
    let Ok((record, ..)) = handle.read(move |view: &View<'_>| find(view, &ns, id, now)).await? else { return Ok(()) };
    fill(store, namespace, &record, task, full).await
}
