import type { HandleClientError } from '@sveltejs/kit';

/** A page that there is not is no error of the program; everything else is worth a line in the console. */
export const handleError: HandleClientError = ({ error, status, message }) => {
	if (status !== 404) console.error(error);
	return { message: error instanceof Error ? error.message : message };
};
