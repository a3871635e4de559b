-- The prompt that a collection's questions are asked with: {system, user}; null for the default.
ALTER TABLE ragstone.collection ADD COLUMN prompt jsonb CHECK (jsonb_typeof(prompt) = 'object');
