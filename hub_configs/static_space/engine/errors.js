/** A file that cannot be used. The message says what must hold and what to do, and never quotes the file's text. */
export class RadiographError extends Error {}
