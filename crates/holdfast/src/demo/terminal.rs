//! The terminal while the live screen is on it: raw, on its second page, and given back on every way out.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{execute, queue};
use tokio::sync::mpsc;

/// How soon the keyboard's thread notices that it should end.
const POLL: Duration = Duration::from_millis(100);
/// Keys that are pressed faster than they are looked at are not remembered beyond these.
const KEYS: usize = 16;
const USUAL_SIZE: (u16, u16) = (80, 24);

/// What somebody pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// A letter.
    Letter(char),
    /// Ctrl-C.
    Interrupt,
}

/// A terminal in use. It is given back when this is dropped, and before a panic is told.
#[derive(Debug)]
pub(super) struct Terminal {
    keys: mpsc::Receiver<Key>,
    is_over: Arc<AtomicBool>,
    keyboard: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Takes the terminal.
    pub(super) fn take() -> io::Result<Self> {
        enable_raw_mode()?;
        let (pressed, keys) = mpsc::channel(KEYS);
        let is_over = Arc::new(AtomicBool::new(false));
        // From here on a way out gives the terminal back.
        let mut terminal = Self { keys, is_over: Arc::clone(&is_over), keyboard: None };
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            tell(panic);
        }));
        let keyboard = std::thread::Builder::new().name("keyboard".to_owned());
        terminal.keyboard = Some(keyboard.spawn(move || listen(&pressed, &is_over))?);
        Ok(terminal)
    }

    /// The next key; `None` if the keyboard is gone.
    pub(super) async fn key(&mut self) -> Option<Key> {
        self.keys.recv().await
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        let (columns, lines) = size().unwrap_or(USUAL_SIZE);
        (usize::from(columns), usize::from(lines))
    }

    /// Writes a screen over the last one.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        queue!(out, MoveTo(0, 0))?;
        for (place, line) in lines.iter().enumerate() {
            queue!(out, MoveTo(0, u16::try_from(place).unwrap_or(u16::MAX)))?;
            out.write_all(line.as_bytes())?;
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(keyboard) = self.keyboard.take()
            && keyboard.join().is_err()
        {
            tracing::debug!("the keyboard's thread panicked");
        }
        give_back();
    }
}

fn give_back() {
    let left = execute!(io::stdout(), Show, LeaveAlternateScreen).and_then(|()| disable_raw_mode());
    if let Err(error) = left {
        tracing::warn!(%error, "the terminal could not be given back: type `reset`");
    }
}

/// Reads keys until it is over. The crate's reading blocks, so it has a thread.
fn listen(pressed: &mpsc::Sender<Key>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) && !pressed.is_closed() {
        match poll(POLL) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(error) => {
                tracing::debug!(%error, "the keyboard is gone");
                return;
            }
        }
        let Ok(event) = read() else { return };
        if let Some(key) = key_of(&event)
            && let Err(error) = pressed.try_send(key)
        {
            tracing::trace!(%error, "a key was pressed too fast");
        }
    }
}

fn key_of(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind != KeyEventKind::Press {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Interrupt),
        KeyCode::Char(letter) => Some(Key::Letter(letter.to_ascii_lowercase())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn a_c_alone_cuts_and_with_control_ends() {
        let key = |code, modifiers| key_of(&Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Some(Key::Letter('c')));
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Interrupt));
        assert_eq!(key(KeyCode::Char('K'), KeyModifiers::SHIFT), Some(Key::Letter('k')));
        assert_eq!(key(KeyCode::Enter, KeyModifiers::NONE), None);
    }
}
