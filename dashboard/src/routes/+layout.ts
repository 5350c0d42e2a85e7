// A program of the browser: nothing is rendered by a server.
export const ssr = false;
export const prerender = false;
