//! Writes EROFS images.

