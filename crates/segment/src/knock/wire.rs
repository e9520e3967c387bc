//! Frames: four bytes of length, big-endian, then JSON.

use std::io;
use std::time::Duration;

use base::limits::KNOCK_FRAME_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// Why a frame didn't come or go.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the line broke")]
    Broken(#[source] io::Error),
    #[error("the other side has said nothing for {}s", .0.as_secs())]
    Silent(Duration),
    #[error("a message of {0} bytes is more than the {KNOCK_FRAME_BYTES_MAX} that may be")]
    TooLong(usize),
    #[error("a message can't be read")]
    Malformed(#[source] serde_json::Error),
}

pub(super) async fn send<S: AsyncWrite + Unpin, T: Serialize>(
    stream: &mut S,
    message: &T,
    within: Duration,
) -> Result<(), FrameError> {
    let text = serde_json::to_vec(message).map_err(FrameError::Malformed)?;
    let length = u32::try_from(text.len()).ok().filter(|_| text.len() <= KNOCK_FRAME_BYTES_MAX);
    let length = length.ok_or(FrameError::TooLong(text.len()))?;
    let frame = [length.to_be_bytes().as_slice(), &text].concat();
    let sent = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    timeout(within, sent).await.map_err(|_| FrameError::Silent(within))?.map_err(FrameError::Broken)
}

/// The next message; none when the other side has ended in order.
pub(super) async fn receive<S: AsyncRead + Unpin, T: DeserializeOwned>(
    stream: &mut S,
    within: Duration,
) -> Result<Option<T>, FrameError> {
    let received = async {
        let mut length = [0; 4];
        if let Err(error) = stream.read_exact(&mut length).await {
            let ended = error.kind() == io::ErrorKind::UnexpectedEof;
            return if ended { Ok(None) } else { Err(FrameError::Broken(error)) };
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > KNOCK_FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let mut text = vec![0; length];
        stream.read_exact(&mut text).await.map_err(FrameError::Broken)?;
        serde_json::from_slice(&text).map(Some).map_err(FrameError::Malformed)
    };
    timeout(within, received).await.map_err(|_| FrameError::Silent(within))?
}
