select item_id, count(*) as lists
from {{ source('batchrec', 'recommendations') }}
group by item_id
order by lists desc
