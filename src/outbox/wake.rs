//! Waking workers: at once inside the process, by `NOTIFY` from other processes, by polling as last resort.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::Notify;

use super::{Outbox, StoreError};

/// A signal that there may be work, to everybody who waits for it at that moment.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// There may be work.
    pub fn wake(&self) {
        self.0.notify_waiters();
    }

    /// Resolves at the next [`Wake::wake`]; counts from the moment it is enabled or first polled.
    pub fn woken(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.notified()
    }
}

impl Outbox {
    /// Wakes the workers of all processes.
    ///
    /// Apart from the commits that there is news of: those that notify wait for each other, from before they are written
    /// to the disk until they are.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn wake_all(&self) -> Result<(), StoreError> {
        let mut connection = self.warm.connection().await?;
        sqlx::query!("select pg_notify('flexportal_sync', '')").execute(&mut *connection).await?;
        connection.keep();
        Ok(())
    }

    /// Passes Postgres' notifications on to `wake` for as long as it is polled, over one connection of its own.
    ///
    /// While that connection is away, workers poll; when it is back they are woken once, for what they missed.
    pub async fn listen(&self, wake: Wake) {
        loop {
            match self.listen_until_cut(&wake).await {
                Ok(never) => match never {},
                Err(error) => {
                    tracing::debug!(error = %error, "not listening for notifications: workers poll meanwhile");
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn listen_until_cut(&self, wake: &Wake) -> Result<std::convert::Infallible, sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen("flexportal_sync").await?;
        wake.wake();
        loop {
            // `None` means that the connection was cut and made again.
            let _notification = listener.try_recv().await?;
            wake.wake();
        }
    }
}
