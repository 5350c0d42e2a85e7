// Ids where there is no room for the whole: what kind it is, and enough to tell two apart.

const SHOWN = 8;

/** `sb-um20dzw3…` */
export const shortId = (id: string) => `${id.slice(0, id.indexOf('-') + 1 + SHOWN)}…`;
