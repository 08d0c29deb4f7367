//! Calls that gather: while one group of them is at the database, the next gathers.
//!
//! Nobody waits for a timer, and no task stands by: of those that wait, one carries out the calls of all. The busier it
//! gets, the larger the groups, and the fewer commits.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Mutex as Turn, oneshot};

/// Where calls of one kind gather; bounded by the number of callers.
pub(super) struct Gathering<T, R> {
    line: Mutex<Vec<(T, oneshot::Sender<R>)>>,
    turn: Turn<()>,
}

impl<T, R> Default for Gathering<T, R> {
    fn default() -> Self {
        Self { line: Mutex::default(), turn: Turn::default() }
    }
}

impl<T, R> fmt::Debug for Gathering<T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathering").finish_non_exhaustive()
    }
}

impl<T, R> Gathering<T, R> {
    /// Has a call carried out with those that wait beside it; `carry_out` gives an answer for each, in their order.
    ///
    /// `None` if it was carried out by a caller that gave up meanwhile: nobody knows what became of it.
    pub(super) async fn join(&self, call: T, carry_out: impl AsyncFnOnce(Vec<T>) -> Vec<R>) -> Option<R> {
        let (answer, mut answered) = oneshot::channel();
        self.line().push((call, answer));
        let turn = tokio::select! {
            biased;
            answer = &mut answered => return answer.ok(),
            turn = self.turn.lock() => turn,
        };
        // Those that were claimed, or answered, at the same moment are about to join.
        tokio::task::yield_now().await;
        let mut group = std::mem::take(&mut *self.line());
        // Who has given up meanwhile may have called anew.
        group.retain(|(_, caller)| !caller.is_closed());
        if !group.is_empty() {
            let (calls, callers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            // Boxed: most callers never carry anything out, and would all have room for it.
            for (caller, answer) in callers.into_iter().zip(Box::pin(carry_out(calls)).await) {
                // Who has given up finds out by other means.
                drop(caller.send(answer));
            }
        }
        drop(turn);
        answered.await.ok()
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Vec<(T, oneshot::Sender<R>)>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_arrives_while_one_is_at_it_goes_together() {
        let gathering = Arc::new(Gathering::<u32, (u32, usize)>::default());
        let (release, held) = oneshot::channel::<()>();
        let first = tokio::spawn({
            let gathering = gathering.clone();
            async move {
                let carry_out = async |calls: Vec<u32>| {
                    held.await.expect("released");
                    calls.iter().map(|call| (*call, calls.len())).collect()
                };
                gathering.join(0, carry_out).await
            }
        });
        tokio::task::yield_now().await;
        let others: Vec<_> = (1..=5)
            .map(|call| {
                let gathering = gathering.clone();
                let carry_out = async |calls: Vec<u32>| calls.iter().map(|call| (*call, calls.len())).collect();
                tokio::spawn(async move { gathering.join(call, carry_out).await })
            })
            .collect();
        tokio::task::yield_now().await;
        release.send(()).expect("it waits");
        assert_eq!(first.await.expect("no panic"), Some((0, 1)));
        for (call, other) in (1..).zip(others) {
            assert_eq!(other.await.expect("no panic"), Some((call, 5)));
        }
    }

    #[tokio::test]
    async fn those_whose_caller_gave_up_are_told_so_and_the_next_goes_on() {
        let gathering = Arc::new(Gathering::<u32, u32>::default());
        let leader = tokio::spawn({
            let gathering = gathering.clone();
            async move { gathering.join(1, async |_| std::future::pending().await).await }
        });
        tokio::task::yield_now().await;
        // It waits behind the leader, and is carried out by the next one.
        let behind = tokio::spawn({
            let gathering = gathering.clone();
            async move { gathering.join(2, async |calls| calls).await }
        });
        tokio::task::yield_now().await;
        leader.abort();
        assert_eq!(behind.await.expect("no panic"), Some(2));
        assert_eq!(gathering.join(3, async |calls| calls).await, Some(3));
    }
}
