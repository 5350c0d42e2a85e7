// The server of `npm run dev`, and of nothing else: it puts scripts and styles inline, which the page's policy forbids.
import type { Handle } from '@sveltejs/kit';
import { dev } from '$app/environment';

export const handle: Handle = ({ event, resolve }) =>
	dev
		? resolve(event, {
				transformPageChunk: ({ html }) =>
					html.replace(/<meta\s+http-equiv="content-security-policy"[^>]*>/, '')
			})
		: resolve(event);
